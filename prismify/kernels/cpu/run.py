"""The operator and its gradients on the CPU, by kernels that Numba compiles; see `cpu` for what they serve."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..axes import input_grad_shape
from ..padding import dense_as, empty_as, fold
from ..problem import Problem
from . import threads as cpu_threads
from .compile import CpuJob, compiled
from .kernels import PLAN
from .records import COUNTERS, TILE, Number, Template, template_of
from .support import vector_bytes

#: Multiply-adds below which a second thread costs more than it saves.
SERIAL_MACS = 1 << 20

_WIDE = {torch.float64: torch.float64}

_Bias = tuple[Tensor, int, int]


@dataclass(frozen=True, slots=True)
class Packing:
    """What happens to the input while it is packed.

    Args:
        pairs: scale and shift of every channel, (B, C, 2) in the type computed in.
        name: see `vectors.Spec`.
    """

    pairs: Tensor
    name: str


def forward(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    problem: Problem,
    packing: Packing | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The operator.

    Args:
        u: (B, P*V, H, W), any strides.
        weight: (Q, P, K_C, K_H, K_W) or (K_C, K_H, K_W).
        bias: (Q,), (Q*V,) or None.
        problem: what `make_problem` says of these.
        packing: what the operator sees instead of `u`, which must be contiguous then.
        residual: what is added, laid out as the output.

    Returns:
        (B, Q*V, H', W'), channels last where `u` is.
    """
    output = empty_as(u, (problem.batch, problem.volumes[1] * problem.depth, *problem.size_out))
    if output.numel() == 0:
        return output
    number = number_of(u.dtype)
    template = template_of(problem, "forward", u.stride(), output.stride(), number, torch.get_num_threads())
    # One bias a channel runs along depth; where channels are not the depth, it is added afterwards.
    inside = bias is None or problem.bias_size == problem.volumes[1] or template.stencil.order[1] == 1
    numbers = _bias(bias if inside else None, problem, u.dtype)
    _stencil(template, number, u, weight, output, numbers, problem.macs, packing, residual)
    if bias is not None and not inside:
        output += bias[:, None, None]
    return output


def input_grad(grad: Tensor, weight: Tensor, problem: Problem) -> Tensor:
    """The input's gradient, (B, P*V, H, W), from the output's: the stencil of the flipped kernel."""
    shape, folds = input_grad_shape(problem)
    output = empty_as(grad, shape)
    if output.numel() > 0:
        grad = dense_as(grad, grad)
        number = number_of(grad.dtype)
        threads = torch.get_num_threads()
        template = template_of(problem, "input_grad", grad.stride(), output.stride(), number, threads)
        _stencil(template, number, grad, weight, output, _bias(None, problem, grad.dtype), problem.macs)
    return fold(output, problem) if folds else output


def weight_grad(
    grad: Tensor, u: Tensor, problem: Problem, weight_shape: tuple[int, ...], packing: Packing | None = None
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias (None without one) from the output's gradient and the (packed) input.

    Work is cut into pieces whatever the number of threads; a piece adds up in the type computed in, the
    pieces are added in float64 and in order.
    """
    if grad.numel() == 0:
        bias = grad.new_zeros(problem.bias_size) if problem.bias_size else None
        return grad.new_zeros(weight_shape), bias
    grad = dense_as(grad, u)
    number = number_of(u.dtype)
    template = template_of(problem, "weight_grad", u.stride(), grad.stride(), number, 0)
    weight = u.new_empty(weight_shape)
    # A bias a channel runs along depth; where channels are not the depth, its gradient is a sum by itself.
    inside = problem.bias_size == problem.volumes[1] or template.stencil.order[1] == 1
    bias = u.new_empty(problem.bias_size) if problem.bias_size and inside else None
    _correlation(template, number, u, grad, weight, bias, problem.macs, packing)
    if problem.bias_size and not inside:
        bias = grad.sum((0, 2, 3), dtype=torch.float64).to(u.dtype)
    return weight, bias


@cache
def number_of(dtype: torch.dtype) -> Number:
    wide = 8 if dtype == torch.float64 else 4
    return Number(str(dtype).removeprefix("torch."), dtype.itemsize, wide, vector_bytes())


def as_wide(tensor: Tensor) -> Tensor:
    """Contiguous, in the type the kernels compute in."""
    dtype = _WIDE.get(tensor.dtype, torch.float32)
    if tensor.dtype == dtype and tensor.is_contiguous():
        return tensor
    return tensor.to(dtype).contiguous()


@cache
def _no_bias(dtype: torch.dtype) -> _Bias:
    return torch.zeros(1, dtype=_WIDE.get(dtype, torch.float32), device="cpu"), 0, 0


def _bias(bias: Tensor | None, problem: Problem, dtype: torch.dtype) -> _Bias:
    """The bias as the kernels read it, and the steps between output volumes and between depths."""
    if bias is None:
        return _no_bias(dtype)
    volumes = problem.volumes[1]
    if problem.bias_size == volumes:
        return as_wide(bias), 1, 0
    # A tile reads TILE numbers even where fewer channels are left.
    padded = torch.nn.functional.pad(bias.reshape(volumes, problem.depth), (0, -problem.depth % TILE))
    return as_wide(padded), padded.shape[1], 1


def _word(name: str) -> int:
    """Where a field of a plan lies among its integers."""
    dtype, start = PLAN, 0
    for part in name.split("."):
        dtype, offset = dtype.fields[part][:2]  # type: ignore[index]
        start += offset
    return start // 8


_INPUT, _GRAD, _WEIGHT, _OUTPUT = (_word(n) for n in ("input.address", "grad.address", "weight", "output"))
_BIAS, _BIAS_OUT, _BIAS_DEPTH = (_word(n) for n in ("bias", "bias_out", "bias_depth"))
_GRADS, _BIAS_SUMS, _BIAS_GRADS, _BIAS_COUNT = (_word(n) for n in ("grads", "bias_sums", "bias_grads", "bias_count"))


def _stencil(
    template: Template,
    number: Number,
    source: Tensor,
    weight: Tensor,
    output: Tensor,
    bias: _Bias,
    macs: int,
    packing: Packing | None = None,
    residual: Tensor | None = None,
) -> None:
    weight = as_wide(weight)
    words = array("q", template.words)
    words[_INPUT], words[_OUTPUT] = source.data_ptr(), output.data_ptr()
    words[_WEIGHT] = weight.data_ptr() + template.stencil.weight_start * number.wide_bytes
    words[_BIAS] = bias[0].data_ptr()
    words[_BIAS_OUT], words[_BIAS_DEPTH] = bias[1] * number.wide_bytes, bias[2] * number.wide_bytes
    if residual is not None:
        words[_RESIDUAL] = residual.data_ptr() - output.data_ptr()
    _launch("forward", template, number, words, macs, packing)


def _correlation(
    template: Template,
    number: Number,
    u: Tensor,
    grad: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    macs: int,
    packing: Packing | None,
) -> None:
    words = array("q", template.words)
    sums = torch.empty(template.sums_size + template.bias_sums_size, dtype=torch.float64, device="cpu")
    words[_INPUT], words[_GRAD], words[_OUTPUT] = u.data_ptr(), grad.data_ptr(), sums.data_ptr()
    words[_GRADS] = weight.data_ptr()
    if bias is not None:
        words[_BIAS_SUMS] = sums.data_ptr() + 8 * template.sums_size
        words[_BIAS_GRADS], words[_BIAS_COUNT] = bias.data_ptr(), bias.numel()
    _launch("correlate", template, number, words, macs, packing)


_SCRATCH, _COUNTERS, _RESIDUAL = _word("scratch"), _word("counters"), _word("residual")
_PAIRS, _PAIRS_BATCH, _PAIRS_VOLUME = (_word(f"input.pairs{n}") for n in ("", "_batch", "_volume"))


def _launch(
    job: CpuJob, template: Template, number: Number, words: array[int], macs: int, packing: Packing | None
) -> None:
    threads = 1 if macs < SERIAL_MACS else min(torch.get_num_threads(), template.items)
    scratch = torch.empty(threads * template.scratch_size + 64, dtype=torch.uint8, device="cpu")
    address, length = words.buffer_info()
    words[_SCRATCH] = -(-scratch.data_ptr() // 64) * 64
    words[_COUNTERS] = address + 8 * (length - COUNTERS)
    if packing is not None:
        step = 2 * number.wide_bytes * template.stencil.axes[1].size
        words[_PAIRS], words[_PAIRS_VOLUME] = packing.pairs.data_ptr(), step
        words[_PAIRS_BATCH] = step * template.stencil.volumes[0]
    entry = compiled(job, number.storage, *template.spec, "plain" if packing is None else packing.name)
    cpu_threads.run(entry.address, address, threads)
