"""Norm, activation, operator and residual sum on the CPU.

The norm's scale and shift and the activation are applied where the operator packs its input, where that
pays: the activated tensor never is in memory. Elsewhere it is, for as long as a call takes.
"""

from __future__ import annotations

from array import array
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..fused.protocol import Grads, Saved
from ..problem import NormAct, Problem
from . import run as cpu_run
from . import threads as cpu_threads
from .compile import CpuJob, compiled
from .norm import NORM
from .run import Packing, as_wide, number_of

#: Numbers below which a second thread costs more than it saves.
SERIAL_NUMBERS = 1 << 15


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    block: NormAct,
    problem: Problem,
) -> tuple[Tensor, Saved]:
    """The block.

    Args:
        x: (B, P*V, H, W).
        weight, bias: as for the operator.
        residual: of the output's shape and element type, or None.
        norm_weight, norm_bias: (P*V,) or None.
        block, problem: what is computed before the operator, and what `make_problem` says of the operator.

    Returns:
        (B, Q*V, H', W'), contiguous, and what the gradients need besides the arguments.
    """
    x = _contiguous(x)
    batch, channels = x.shape[:2]
    moments = torch.empty(batch, block.groups, 2, dtype=torch.float64)
    pairs = torch.empty(batch, channels, 2, dtype=as_wide(x[:0]).dtype)
    packs = _packs(problem, number_of(x.dtype).lanes)
    u = None if packs else torch.empty_like(x)
    _run("moments", x, block, moments, pairs, norm_weight=norm_weight, norm_bias=norm_bias, output=u)
    residual = None if residual is None else _contiguous(residual)
    if u is None:
        output = cpu_run.forward(x, weight, bias, problem, Packing(pairs, _packing(block)), residual)
    else:
        output = cpu_run.forward(u, weight, bias, problem, None, residual)
    return output, Saved(moments, pairs)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor | None,
    saved: Saved,
    block: NormAct,
    problem: Problem,
    wanted: tuple[bool, bool],
) -> Grads:
    """The gradients of all but the residual, whose is the output's own.

    Args:
        grad: the output's gradient.
        x, weight, norm_weight, block, problem: as for `forward`, whose second result is `saved`.
        wanted: whether the gradients of x and the norm, and of weight and bias are.
    """
    x, grad = _contiguous(x), _contiguous(grad)
    pairs, result = saved.pairs, Grads()
    if wanted[1]:
        shape = tuple(weight.shape)
        if _packs(problem, number_of(x.dtype).lanes):
            sums = cpu_run.weight_grad(grad, x, problem, shape, Packing(pairs, _packing(block)))
        else:
            u = torch.empty_like(x)
            _run("activated", x, block, saved.moments, pairs, output=u)
            sums = cpu_run.weight_grad(grad, u, problem, shape)
            del u
        result.weight, result.bias = sums
    if wanted[0]:
        result.x = _contiguous(cpu_run.input_grad(grad, weight, problem))
        totals = torch.empty(*pairs.shape, dtype=torch.float64)
        _run("norm_grads", x, block, saved.moments, pairs, norm_weight=norm_weight, grad=result.x, sums=totals)
        result.norm_bias, result.norm_weight = totals.sum(0).to(x.dtype).unbind(1)
    return result


def _packs(problem: Problem, lanes: int) -> bool:
    """Whether rows are packed in full vectors: number by number, activating them would take most of the time."""
    return problem.depth > 1 and problem.geometry.stride == (1, 1) and problem.size[1] >= lanes


def _packing(block: NormAct) -> str:
    return "silu" if block.activation == "silu" else "affine"


def _contiguous(x: Tensor) -> Tensor:
    """Contiguous, also in the steps of axes of one element, which say nothing but choose kernels."""
    x = x.contiguous()
    steps = (x.shape[1] * x.shape[2] * x.shape[3], x.shape[2] * x.shape[3], x.shape[3], 1)
    return x if x.stride() == steps else x.as_strided(x.shape, steps)


def _run(
    job: CpuJob,
    x: Tensor,
    block: NormAct,
    moments: Tensor,
    pairs: Tensor,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    output: Tensor | None = None,
    grad: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    batch, channels, height, width = x.shape
    number, items = number_of(x.dtype), batch * block.groups
    scale, shift = (None if p is None else as_wide(p) for p in (norm_weight, norm_bias))
    tensors = (x, grad, output, scale, shift, moments, pairs, sums)
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    facts = (items, 0, block.groups, channels // block.groups, height * width, *addresses, _bits(block.eps), 0)
    words = array("q", facts)
    address, length = words.buffer_info()
    # The last word counts the groups claimed.
    words[_COUNTERS] = address + 8 * (length - 1)
    entry = compiled(job, number.storage, 1, 1, 1, number.lanes, _packing(block))
    threads = 1 if x.numel() < SERIAL_NUMBERS else min(torch.get_num_threads(), items)
    cpu_threads.run(entry.address, address, threads)


@cache
def _bits(value: float) -> int:
    """A float64 as the int64 of the same bits."""
    return int(np.float64(value).view(np.int64))


_COUNTERS = NORM.names.index("counters")  # type: ignore[union-attr]
