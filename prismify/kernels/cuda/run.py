"""The operator and its gradients on CUDA devices, by Triton kernels; see `cuda` for what they serve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..axes import Job, Stencil, Strides, input_grad_shape, stencil_of
from ..padding import dense_as, empty_as, fold
from ..problem import Problem
from . import kernels as cuda_kernels

_MODES = {"zero": 0, "replicate": 1, "circular": 2, "reflect": 3}


@dataclass(frozen=True)
class Blocks:
    """How work is cut: outputs of `pixels` pixels at `depth` depth positions a program, on `warps` warps."""

    pixels: int
    depth: int
    warps: int


#: Of the operator and the input gradient, and of the weight gradient.
STENCIL = Blocks(pixels=512, depth=16, warps=4)
CORRELATION = Blocks(pixels=128, depth=32, warps=4)
#: Programs that share the weight gradient of a pair of volumes, each with partial sums of its own.
SLICES = 4096


def forward(u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
    """The operator: see `cpu.run.forward`."""
    output = empty_as(u, (problem.batch, problem.volumes[1] * problem.depth, *problem.size_out))
    if output.numel() == 0:
        return output
    stencil = _stencil(problem, "forward", u.stride(), output.stride())
    inside = bias is None or problem.bias_size == problem.volumes[1] or stencil.order[1] == 1
    numbers, steps = torch.zeros(1, device=u.device), (0, 0)
    if bias is not None and inside:
        scalar = problem.bias_size == problem.volumes[1]
        numbers, steps = bias.float().contiguous(), (1, 0) if scalar else (problem.depth, 1)
    _launch(stencil, u, weight, numbers, steps, output)
    if bias is not None and not inside:
        output += bias[:, None, None]
    return output


def input_grad(grad: Tensor, weight: Tensor, problem: Problem) -> Tensor:
    """The input's gradient: see `cpu.run.input_grad`."""
    shape, folds = input_grad_shape(problem)
    output = empty_as(grad, shape)
    if output.numel() > 0:
        grad = dense_as(grad, grad)
        stencil = _stencil(problem, "input_grad", grad.stride(), output.stride())
        _launch(stencil, grad, weight, torch.zeros(1, device=grad.device), (0, 0), output)
    return fold(output, problem) if folds else output


def weight_grad(
    grad: Tensor, u: Tensor, problem: Problem, weight_shape: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias: see `cpu.run.weight_grad`.

    In two stages, so that the order of every sum is fixed: float32 sums of slices of the work, then the
    slices in float64.
    """
    if grad.numel() == 0:
        bias = grad.new_zeros(problem.bias_size) if problem.bias_size else None
        return grad.new_zeros(weight_shape), bias
    grad = dense_as(grad, u)
    stencil = _stencil(problem, "weight_grad", u.stride(), grad.stride())
    sums, bias_sums = _correlate(stencil, u, grad)
    parts = stencil.order[1:]
    back = (2 + parts.index(axis) if axis in parts else 2 for axis in (1, 2, 3))
    weight = sums.permute(0, 1, *back).reshape(weight_shape).to(u.dtype)
    if not problem.bias_size:
        return weight, None
    if problem.bias_size == problem.volumes[1]:
        return weight, bias_sums.to(u.dtype)
    return weight, grad.sum((0, 2, 3), dtype=torch.float32).to(u.dtype)


@lru_cache(maxsize=4096)
def _stencil(problem: Problem, job: Job, source: Strides, target: Strides) -> Stencil:
    return stencil_of(problem, job, source, target)


def _parts(size: int, part: int) -> int:
    return -(-size // part)


def _facts(stencil: Stencil) -> dict[str, Any]:
    """What both kernels are compiled for."""
    _, depth, rows, cols = stencil.axes
    facts: dict[str, Any] = {
        "DEPTH_TAPS": depth.kernel,
        "DEPTH_PAD": depth.pad,
        "DEPTH_MODE": _MODES[depth.mode],
        "VOLUMES": stencil.volumes[0],
        "WIDE": _wide(stencil),
    }
    for name, axis in (("ROW", rows), ("COL", cols)):
        facts |= {
            f"{name}_TAPS": axis.kernel,
            f"{name}_STRIDE": axis.stride,
            f"{name}_DILATION": axis.dilation,
            f"{name}_PAD": axis.pad,
            f"{name}_MODE": _MODES[axis.mode],
        }
    return facts


def _wide(stencil: Stencil) -> bool:
    """Whether an offset within one depth position can pass 2^31 elements."""
    _, _, rows, cols = stencil.axes
    spans = (
        rows_size * abs(strides[3]) + cols_size * abs(strides[4])
        for rows_size, cols_size, strides in (
            (rows.size, cols.size, stencil.source),
            (rows.size_out, cols.size_out, stencil.target),
        )
    )
    return max(spans) >= 2**31


def _launch(
    stencil: Stencil, source: Tensor, weight: Tensor, bias: Tensor, bias_steps: tuple[int, int], output: Tensor
) -> None:
    batch, depth, rows, cols = stencil.axes
    depth_block = min(STENCIL.depth, depth.size_out)
    pixel_blocks = _parts(rows.size_out * cols.size_out, STENCIL.pixels)
    depth_blocks = _parts(depth.size_out, depth_block)
    programs = batch.size * stencil.volumes[1] * depth_blocks * pixel_blocks
    weights = weight.float().contiguous().flatten()[stencil.weight_start :]
    cuda_kernels.stencil_kernel[(programs,)](
        source,
        weights,
        bias,
        output,
        *(depth.size, depth.size_out, depth_blocks, rows.size, rows.size_out, cols.size, cols.size_out),
        *(pixel_blocks, stencil.volumes[1], *stencil.source, *stencil.target, *stencil.weight, *bias_steps),
        **_facts(stencil),
        ROW_UP=rows.spread,
        COL_UP=cols.spread,
        DEPTH_BLOCK=depth_block,
        BLOCK=STENCIL.pixels,
        num_warps=STENCIL.warps,
        enable_fp_fusion=True,
    )


def _correlate(stencil: Stencil, u: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (Q, P, depth, rows, columns) of products with the weight's taps, and (Q,) of the gradient."""
    batch, depth, rows, cols = stencil.axes
    volumes_in, volumes_out = stencil.volumes
    depth_block = min(CORRELATION.depth, depth.size_out)
    pixel_blocks = _parts(rows.size_out * cols.size_out, CORRELATION.pixels)
    depth_blocks = _parts(depth.size_out, depth_block)
    units = batch.size * depth_blocks * pixel_blocks
    slices = min(units, SLICES)
    shared = depth.kernel == 3
    pixel_taps = rows.kernel * cols.kernel
    taps = 1 << (pixel_taps - 1).bit_length()
    groups = volumes_out * volumes_in * (1 if shared else depth.kernel)
    sums = torch.empty(volumes_out, volumes_in, depth.kernel, slices, taps, device=u.device)
    bias_sums = torch.empty(groups, slices, device=u.device)
    cuda_kernels.correlate_kernel[(groups * slices,)](
        u,
        grad,
        sums,
        bias_sums,
        *(units, slices, depth.size, depth.size_out, depth_blocks),
        *(rows.size, rows.size_out, cols.size, cols.size_out, pixel_blocks),
        *(*stencil.source, *stencil.target),
        **_facts(stencil),
        TAPS=taps,
        SHARED=shared,
        DEPTH_BLOCK=depth_block,
        BLOCK=CORRELATION.pixels,
        num_warps=CORRELATION.warps,
        enable_fp_fusion=True,
    )
    weight = torch.unflatten(sums.sum(3, dtype=torch.float64)[..., :pixel_taps], -1, (rows.kernel, cols.kernel))
    # Every group has seen all of its output volume's gradient; the first of a volume speaks for it.
    bias = bias_sums.view(volumes_out, -1, slices)[:, 0].sum(1, dtype=torch.float64)
    return weight, bias
