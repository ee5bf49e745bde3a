"""The fused block in torch's own registry: `prismify::norm_act_deep_prism` and its gradients.

They are what compilers and dispatch modes see; eager calls go through `autograd`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..engines import fusing
from ..padding import empty_as, laid_out_as
from ..problem import Geometry, NormAct, cached_geometry, cached_problem, make_problem
from ..torch.run import recording
from . import composition as unfused
from .autograd import grads_of_composition
from .protocol import Grads, Saved, Tensors

Words = tuple[int, float, str, list[int], list[int], list[int], str, str]


def words(block: NormAct, geometry: Geometry) -> Words:
    """A block and its geometry as the registered operators take them."""
    pairs = (list(geometry.stride), list(geometry.padding), list(geometry.dilation))
    return block.groups, block.eps, block.activation, *pairs, geometry.padding_mode, geometry.topology


def _from(words: tuple[Any, ...]) -> tuple[NormAct, Geometry]:
    groups, eps, activation, stride, padding, dilation, padding_mode, topology = words
    geometry = cached_geometry(tuple(stride), tuple(padding), tuple(dilation), padding_mode, topology)
    return NormAct(groups, eps, activation), geometry


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("prismify::norm_act_deep_prism", mutates_args=())
def norm_act_deep_prism(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    num_groups: int,
    eps: float,
    activation: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    padding_mode: str,
    topology: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The block, and what its gradients need (`fusion.Saved`)."""
    block, geometry = _from((num_groups, eps, activation, stride, padding, dilation, padding_mode, topology))
    problem = cached_problem(x.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    run = fusing(problem, block, x.device.type, x.dtype)
    if run is not None:
        output, saved = run.forward(x, weight, bias, residual, norm_weight, norm_bias, block, problem)
        return laid_out_as(x, output), *saved
    output = unfused.norm_act_deep_prism(x, weight, bias, residual, norm_weight, norm_bias, block, geometry)
    # The gradients go another way, too; should an engine be forced upon them alone, they are none.
    saved = Saved(*(t.fill_(torch.nan) for t in _saved(x, num_groups)))
    return laid_out_as(x, output), *saved


def _saved(x: Tensor, groups: int) -> Saved:
    moments = x.new_empty((x.shape[0], groups, 2), dtype=torch.float64)
    return Saved(moments, x.new_empty((x.shape[0], x.shape[1], 2), dtype=_wide(x.dtype)))


@torch.library.custom_op("prismify::norm_act_deep_prism_grads", mutates_args=())
def grads(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    moments: Tensor,
    pairs: Tensor,
    for_input: bool,
    for_weight: bool,
    num_groups: int,
    eps: float,
    activation: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    padding_mode: str,
    topology: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias, norm_weight and norm_bias; of no elements where there is none."""
    block, geometry = _from((num_groups, eps, activation, stride, padding, dilation, padding_mode, topology))
    problem = cached_problem(x.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    run = fusing(problem, block, x.device.type, x.dtype)
    if run is not None:
        wanted, saved = (for_input, for_weight), Saved(moments, pairs)
        got = run.backward(grad, x, weight, norm_weight, saved, block, problem, wanted)
    else:
        tensors = [x, weight, bias, None, norm_weight, norm_bias]
        needed = tuple(t is not None for t in tensors)
        with recording():
            leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
            found = grads_of_composition(grad, leaves, needed, block, problem)
        found = [None if t is None else t.detach() for t in found]
        got = Grads(found[0], found[1], found[2], found[4], found[5])
    gx = laid_out_as(x, got.x) if for_input and got.x is not None else x.new_empty(0)
    norm = (norm_weight, got.norm_weight), (norm_bias, got.norm_bias)
    gw, gb = (g if for_weight and g is not None else x.new_empty(0) for g in (got.weight, got.bias))
    gnw, gnb = (g if for_input and t is not None and g is not None else x.new_empty(0) for t, g in norm)
    return gx, gw, gb, gnw.contiguous(), gnb.contiguous()


@norm_act_deep_prism.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation, padding_mode, topology = rest[6:]
    geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), padding_mode, topology)
    problem = make_problem(x.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    return empty_as(x, (problem.batch, problem.volumes[1] * problem.depth, *problem.size_out)), *_saved(x, rest[3])


@grads.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    moments: Tensor,
    pairs: Tensor,
    for_input: bool,
    for_weight: bool,
    *rest: Any,
) -> tuple[Tensor, ...]:
    def like(t: Tensor | None, wanted: bool) -> Tensor:
        return x.new_empty(0 if t is None or not wanted else t.shape)

    wanted = ((weight, for_weight), (bias, for_weight), (norm_weight, for_input), (norm_bias, for_input))
    return empty_as(x, tuple(x.shape)) if for_input else x.new_empty(0), *(like(*pair) for pair in wanted)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, _, norm_weight, norm_bias, *ctx.words = inputs
    ctx.save_for_backward(x, weight, bias, norm_weight, norm_bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    x, weight, bias, norm_weight, norm_bias, *saved = ctx.saved_tensors
    need = ctx.needs_input_grad
    wanted = (need[0] or need[4] or need[5], need[1] or need[2])
    gx, gw, gb, gnw, gnb = grads(grad, x, weight, bias, norm_weight, norm_bias, *saved, *wanted, *ctx.words)
    got = (gx, gw, gb, grad, gnw, gnb)
    return *(g if n else None for g, n in zip(got, need, strict=False)), *[None] * 8


norm_act_deep_prism.register_autograd(_backward, setup_context=_save)


def _register_autocast(device: str, key: str) -> None:
    """Under autocast, each part computes in the element type that autocast gives it."""

    def rule(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, tensors = arguments[0], cast(Tensors, arguments[:6])
        block, geometry = _from(arguments[6:])
        output = unfused.norm_act_deep_prism(*tensors, block, geometry)
        return output, *_saved(x, block.groups)

    _LIBRARY.impl("norm_act_deep_prism", rule, key)  # type: ignore[no-untyped-call]


_LIBRARY = torch.library.Library("prismify", "FRAGMENT")  # type: ignore[no-untyped-call]
_register_autocast("cpu", "AutocastCPU")
_register_autocast("cuda", "AutocastCUDA")
