"""The operator and its gradients as autograd functions: what eager calls and function transforms go through.

The operator is linear in its input and in its weight, so that the gradients of its gradients are the same
three operations again: F(u, w), its adjoint in u, G(g, w), and its adjoint in w, W(g, u).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from .engine import Run
from .problem import Problem

Dims = tuple[int | None, ...]


def forward(u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, run: Run) -> Tensor:
    """F(u, w) + b, differentiable. `run` serves `problem`."""
    transformed = torch._C._are_functorch_transforms_active()
    function = _Forward if transformed else _EagerForward
    return cast(Tensor, function.apply(u, weight, bias, problem, run))


def input_grad(grad: Tensor, weight: Tensor, problem: Problem, run: Run) -> Tensor:
    """G(g, w), differentiable."""
    return cast(Tensor, _InputGrad.apply(grad, weight, problem, run))


def weight_grad(grad: Tensor, u: Tensor, problem: Problem, shape: tuple[int, ...], run: Run) -> tuple[Tensor, Tensor]:
    """W(g, u) of shape `shape` and the bias's gradient ((0,) without one), differentiable."""
    return cast(tuple[Tensor, Tensor], _WeightGrad.apply(grad, u, problem, shape, run))


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, run: Run) -> Tensor:
        return run.forward(u, weight, bias, problem)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        u, weight, _, ctx.problem, ctx.run = inputs
        ctx.save_for_backward(u, weight)
        ctx.save_for_forward(u, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (u, weight), problem, run = ctx.saved_tensors, ctx.problem, ctx.run
        for_u, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_u = grad_weight = grad_bias = None
        # Once more through autograd costs microseconds: only if someone asks for gradients of gradients.
        watched = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        if for_u:
            grad_u = input_grad(grad, weight, problem, run) if watched else run.input_grad(grad, weight, problem)
        if for_weight or for_bias:
            shape = tuple(weight.shape)
            grad_weight, grad_bias = (
                weight_grad(grad, u, problem, shape, run) if watched else run.weight_grad(grad, u, problem, shape)
            )
        return grad_u, grad_weight, grad_bias if problem.bias_size else None, None, None

    @staticmethod
    def jvp(ctx: Any, u_tangent: Any, weight_tangent: Any, bias_tangent: Any, *_: Any) -> Tensor:
        (u, weight), problem, run = ctx.saved_tensors, ctx.problem, ctx.run
        bare = replace(problem, bias_size=0)
        terms = []
        if u_tangent is not None:
            terms.append(forward(u_tangent, weight, None, bare, run))
        if weight_tangent is not None:
            terms.append(forward(u, weight_tangent, None, bare, run))
        if bias_tangent is not None:
            channels = problem.volumes[1] * problem.depth
            column = bias_tangent.repeat_interleave(channels // problem.bias_size)[:, None, None]
            terms.append(column.expand(problem.batch, channels, *problem.size_out))
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *args: Any) -> tuple[Any, Any]:
        u, weight, bias, problem, run = args
        if in_dims[0] is None or in_dims[1:3] != (None, None):
            return _one_by_one(forward, info, in_dims, args)
        many = replace(problem, batch=problem.batch * info.batch_size)
        y = forward(u.movedim(in_dims[0], 0).flatten(0, 1), weight, bias, many, run)
        return torch.unflatten(y, 0, (info.batch_size, problem.batch)), 0


class _EagerForward(torch.autograd.Function):
    """`_Forward` for tensors that no function transform wraps: torch calls this form 30 us faster."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, run: Run) -> Tensor:
        ctx.problem, ctx.run = problem, run
        ctx.save_for_backward(u, weight)
        ctx.save_for_forward(u, weight)
        return run.forward(u, weight, bias, problem)

    backward = _Forward.backward
    jvp = _Forward.jvp


class _InputGrad(torch.autograd.Function):
    @staticmethod
    def forward(grad: Tensor, weight: Tensor, problem: Problem, run: Run) -> Tensor:
        return run.input_grad(grad, weight, problem)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, weight, problem, ctx.run = inputs
        ctx.problem = replace(problem, bias_size=0)
        ctx.save_for_backward(grad, weight)
        ctx.save_for_forward(grad, weight)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        (grad, weight), problem, run = ctx.saved_tensors, ctx.problem, ctx.run
        for_grad, for_weight = ctx.needs_input_grad[:2]
        grad_grad = forward(cotangent, weight, None, problem, run) if for_grad else None
        grad_weight = None
        if for_weight:
            grad_weight, _ = weight_grad(grad, cotangent, problem, tuple(weight.shape), run)
        return grad_grad, grad_weight, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Any, weight_tangent: Any, *_: Any) -> Tensor:
        (grad, weight), problem, run = ctx.saved_tensors, ctx.problem, ctx.run
        terms = []
        if grad_tangent is not None:
            terms.append(input_grad(grad_tangent, weight, problem, run))
        if weight_tangent is not None:
            terms.append(input_grad(grad, weight_tangent, problem, run))
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *args: Any) -> tuple[Any, Any]:
        grad, weight, problem, run = args
        if in_dims[0] is None or in_dims[1] is not None:
            return _one_by_one(input_grad, info, in_dims, args)
        many = replace(problem, batch=problem.batch * info.batch_size)
        u = input_grad(grad.movedim(in_dims[0], 0).flatten(0, 1), weight, many, run)
        return torch.unflatten(u, 0, (info.batch_size, problem.batch)), 0


class _WeightGrad(torch.autograd.Function):
    @staticmethod
    def forward(grad: Tensor, u: Tensor, problem: Problem, shape: tuple[int, ...], run: Run) -> tuple[Tensor, Tensor]:
        weight, bias = run.weight_grad(grad, u, problem, shape)
        return weight, grad.new_empty(0) if bias is None else bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, u, ctx.problem, ctx.shape, ctx.run = inputs
        ctx.save_for_backward(grad, u)
        ctx.save_for_forward(grad, u)

    @staticmethod
    def backward(ctx: Any, for_weight: Tensor, for_bias: Tensor) -> tuple[Any, ...]:
        (grad, u), problem, run = ctx.saved_tensors, ctx.problem, ctx.run
        grad_grad = grad_u = None
        if ctx.needs_input_grad[0]:
            bias = for_bias if problem.bias_size else None
            grad_grad = forward(u, for_weight, bias, problem, run)
        if ctx.needs_input_grad[1]:
            grad_u = input_grad(grad, for_weight, replace(problem, bias_size=0), run)
        return grad_grad, grad_u, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Any, u_tangent: Any, *_: Any) -> tuple[Tensor, Tensor]:
        (grad, u), problem, run, shape = ctx.saved_tensors, ctx.problem, ctx.run, ctx.shape
        bare = replace(problem, bias_size=0)
        weight, bias = grad.new_zeros(shape), grad.new_zeros(problem.bias_size)
        if grad_tangent is not None:
            weight, bias = weight_grad(grad_tangent, u, problem, shape, run)
        if u_tangent is not None:
            weight = weight + weight_grad(grad, u_tangent, bare, shape, run)[0]
        return weight, bias

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *args: Any) -> tuple[Any, Any]:
        return _one_by_one(weight_grad, info, in_dims, args)


def _one_by_one(function: Any, info: Any, in_dims: Dims, args: tuple[Any, ...]) -> tuple[Any, Any]:
    """Call a function for every element of the mapped axis."""
    rows = []
    for i in range(info.batch_size):
        at = (a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True))
        rows.append(function(*at))
    if isinstance(rows[0], tuple):
        return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0,) * len(rows[0])
    return torch.stack(rows), 0
