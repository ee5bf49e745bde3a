"""The operator and its gradients on the CPU, by kernels that Numba compiles; see `cpu` for what they serve."""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..axes import Job, Strides, input_grad_shape
from ..padding import dense_as, empty_as, fold
from ..problem import Problem
from . import threads as cpu_threads
from .compile import compiled
from .kernels import PLAN
from .records import COUNTERS, TILE, Number, Template, template_of
from .support import vector_bytes

#: Multiply-adds below which a second thread costs more than it saves.
SERIAL_MACS = 1 << 20

#: Bytes to pack into that a thread keeps for its next call; more is asked for each time.
KEPT_BYTES = 1 << 22

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
    call = _prepared("forward", problem, u.stride(), u.dtype, torch.get_num_threads())
    output = torch.empty_like(u) if call.alike else empty_as(u, call.shape)
    if call.template is None:
        return output
    numbers = _bias(bias if call.bias_inside else None, problem, u.dtype)
    _stencil(call.template, call.number, u, weight, output, numbers, problem.macs, packing, residual)
    if bias is not None and not call.bias_inside:
        output += bias[:, None, None]
    return output


class _Prepared(NamedTuple):
    """What every call of one kind shares.

    Args:
        template: its plan; None where there is nothing to compute.
        number: the element type.
        shape: of the output.
        alike: whether the output is laid out as the input, with its shape.
        bias_inside: whether the kernel adds the bias. One bias a channel runs along depth; where channels are not the
            depth, it is added afterwards.
        folds: whether gradients at padded positions are added to others afterwards.
    """

    template: Template | None
    number: Number
    shape: tuple[int, ...]
    alike: bool
    bias_inside: bool
    folds: bool


@lru_cache(maxsize=4096)
def _prepared(job: Job, problem: Problem, strides: Strides, dtype: torch.dtype, threads: int) -> _Prepared:
    """A pass over the input, or the output's gradient, of those strides: a layer asks for the same at every step."""
    own, shape, folds = (problem.batch, problem.volumes[0] * problem.depth, *problem.size), problem.shape_out, False
    if job == "input_grad":
        own = problem.shape_out
        shape, folds = input_grad_shape(problem)
    source = torch.empty_strided(own, strides, dtype=dtype, device="meta")
    output, number = empty_as(source, shape), number_of(dtype)
    alike = own == shape and strides == output.stride()
    if output.numel() == 0:
        return _Prepared(None, number, shape, alike, True, folds)
    template = template_of(problem, job, strides, output.stride(), number, threads)
    inside = problem.bias_size in (0, problem.volumes[1]) or template.stencil.order[1] == 1
    return _Prepared(template, number, shape, alike, inside, folds)


def input_grad(grad: Tensor, weight: Tensor, problem: Problem) -> Tensor:
    """The input's gradient, (B, P*V, H, W), from the output's: the stencil of the flipped kernel."""
    grad = dense_as(grad, grad)
    call = _prepared("input_grad", problem, grad.stride(), grad.dtype, torch.get_num_threads())
    output = torch.empty_like(grad) if call.alike else empty_as(grad, call.shape)
    if call.template is not None:
        _stencil(call.template, call.number, grad, weight, output, _no_bias(grad.dtype), problem.macs)
    return fold(output, problem) if call.folds else output


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
    _launch(template, number, words, macs, packing)


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
    words[_INPUT], words[_GRAD], words[_GRADS] = u.data_ptr(), grad.data_ptr(), weight.data_ptr()
    if bias is not None:
        words[_BIAS_GRADS], words[_BIAS_COUNT] = bias.data_ptr(), bias.numel()
    _launch(template, number, words, macs, packing)


_SCRATCH, _COUNTERS, _RESIDUAL = _word("scratch"), _word("counters"), _word("residual")
_PAIRS, _PAIRS_BATCH, _PAIRS_VOLUME = (_word(f"input.pairs{n}") for n in ("", "_batch", "_volume"))


class _Kept(threading.local):
    """What a Python thread packs into, kept from call to call: one call is done before the next begins."""

    buffer: Tensor | None = None
    size = 0


_kept = _Kept()


def _scratch(size: int) -> Tensor:
    """At least `size` bytes."""
    buffer = _kept.buffer
    if buffer is None or _kept.size < size:
        buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        if size <= KEPT_BYTES:
            _kept.buffer, _kept.size = buffer, size
    return buffer


def _launch(template: Template, number: Number, words: array[int], macs: int, packing: Packing | None) -> None:
    threads = 1 if macs < SERIAL_MACS else min(torch.get_num_threads(), template.items)
    packed = threads * template.scratch_size
    sums = 8 * (template.sums_size + template.bias_sums_size) if template.sums_size else 0
    scratch = _scratch(packed + sums + 64)
    address, length = words.buffer_info()
    words[_SCRATCH] = start = -(-scratch.data_ptr() // 64) * 64
    if sums:
        words[_OUTPUT] = start + packed
        if words[_BIAS_COUNT]:
            words[_BIAS_SUMS] = start + packed + 8 * template.sums_size
    words[_COUNTERS] = address + 8 * (length - COUNTERS)
    if packing is not None:
        step = 2 * number.wide_bytes * template.stencil.axes[1].size
        words[_PAIRS], words[_PAIRS_VOLUME] = packing.pairs.data_ptr(), step
        words[_PAIRS_BATCH] = step * template.stencil.volumes[0]
    entry = compiled(template.kernel, number.storage, *template.spec, "plain" if packing is None else packing.name)
    cpu_threads.run(entry.address, address, threads)
