"""The fused block as an autograd function.

It keeps its arguments and the groups' moments for the backward pass: neither the normalised nor the activated
tensor. Gradients of gradients, rare for it, are those of the composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..problem import NormAct, Problem
from . import composition as unfused
from .protocol import FusedRun, Saved, Tensors


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    block: NormAct,
    problem: Problem,
    run: FusedRun,
) -> Tensor:
    """The block, differentiable. `run` serves it."""
    arguments = (x, weight, bias, residual, norm_weight, norm_bias, block, problem, run)
    return cast(Tensor, _Fused.apply(*arguments))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, ctx.block, ctx.problem, ctx.run = arguments
        output, saved = ctx.run.forward(*tensors, ctx.block, ctx.problem)
        # Only gradients of gradients read the biases and the residual.
        ctx.save_for_backward(*tensors, *saved)
        return cast(Tensor, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        *tensors, moments, pairs = ctx.saved_tensors
        needed = ctx.needs_input_grad[:6]
        if torch.is_grad_enabled():
            return *grads_of_composition(grad, tensors, needed, ctx.block, ctx.problem), None, None, None
        x, weight, _, _, norm_weight, norm_bias = tensors
        wanted = (needed[0] or needed[4] or needed[5], needed[1] or needed[2])
        got = ctx.run.backward(grad, x, weight, norm_weight, Saved(moments, pairs), ctx.block, ctx.problem, wanted)
        return (
            got.x,
            got.weight,
            got.bias,
            grad if needed[3] else None,
            None if norm_weight is None else got.norm_weight,
            None if norm_bias is None else got.norm_bias,
            None,
            None,
            None,
        )


def grads_of_composition(
    grad: Tensor, tensors: Sequence[Tensor | None], needed: tuple[bool, ...], block: NormAct, problem: Problem
) -> list[Tensor | None]:
    """The gradients of the block's tensors where they are needed, differentiable themselves."""
    with torch.enable_grad():
        # Views, so that this call's gradients do not run on into what made the arguments.
        views = [None if t is None else t.view_as(t) for t in tensors]
        output = unfused.norm_act_deep_prism(*cast(Tensors, tuple(views)), block, problem.geometry)
    asked = [view for view, need in zip(views, needed, strict=True) if need and view is not None]
    gradients = iter(torch.autograd.grad(output, asked, grad, create_graph=True))
    return [next(gradients) if need else None for need in needed]
