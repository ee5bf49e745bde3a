"""The operator in torch's own registry: `prismify::deep_prism` and its two gradients.

They are what compilers and dispatch modes see; eager calls go through `autograd`, which is faster and has
the same formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engines import choose
from .padding import empty_as, laid_out_as
from .problem import Geometry, cached_geometry, cached_problem, make_problem

Rest = tuple[list[int], list[int], list[int], str, str]


def _geometry(stride: list[int], padding: list[int], dilation: list[int], padding_mode: str, topology: str) -> Geometry:
    return cached_geometry(tuple(stride), tuple(padding), tuple(dilation), padding_mode, topology)


@torch.library.custom_op("prismify::deep_prism", mutates_args=())
def deep_prism(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    padding_mode: str,
    topology: str,
) -> Tensor:
    """The operator: see `prismify.kernels.deep_prism`."""
    geometry = _geometry(stride, padding, dilation, padding_mode, topology)
    problem = cached_problem(u.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    run = choose(problem, u.device.type, u.dtype).run()
    return laid_out_as(u, run.forward(u, weight, bias, problem))


@torch.library.custom_op("prismify::deep_prism_input_grad", mutates_args=())
def input_grad(
    grad: Tensor,
    weight: Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    padding_mode: str,
    topology: str,
) -> Tensor:
    """The gradient of an input of shape `size`."""
    geometry = _geometry(stride, padding, dilation, padding_mode, topology)
    problem = cached_problem(tuple(size), weight.shape, 0, geometry)
    run = choose(problem, grad.device.type, grad.dtype).run()
    return laid_out_as(grad, run.input_grad(grad, weight, problem))


@torch.library.custom_op("prismify::deep_prism_weight_grad", mutates_args=())
def weight_grad(
    grad: Tensor,
    u: Tensor,
    weight_size: list[int],
    bias_size: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    padding_mode: str,
    topology: str,
) -> tuple[Tensor, Tensor]:
    """The gradients of a weight of shape `weight_size` and of a bias of `bias_size` numbers (may be 0)."""
    geometry = _geometry(stride, padding, dilation, padding_mode, topology)
    problem = cached_problem(u.shape, tuple(weight_size), bias_size, geometry)
    run = choose(problem, u.device.type, u.dtype).run()
    weight, bias = run.weight_grad(grad, u, problem, tuple(weight_size))
    return weight, grad.new_empty(0) if bias is None else bias


@deep_prism.register_fake
def _(u: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    stride, padding, dilation = (tuple(pair) for pair in rest[:3])
    geometry = Geometry(stride, padding, dilation, *rest[3:])
    problem = make_problem(u.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    return empty_as(u, (problem.batch, problem.volumes[1] * problem.depth, *problem.size_out))


@input_grad.register_fake
def _(grad: Tensor, weight: Tensor, size: list[int], *rest: Any) -> Tensor:
    return empty_as(grad, tuple(size))


@weight_grad.register_fake
def _(grad: Tensor, u: Tensor, weight_size: list[int], bias_size: int, *rest: Any) -> tuple[Tensor, Tensor]:
    return grad.new_empty(weight_size), grad.new_empty(bias_size)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    u, weight, bias, *rest = inputs
    ctx.save_for_backward(u, weight)
    ctx.bias_size, ctx.rest = 0 if bias is None else bias.shape[0], rest


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    u, weight = ctx.saved_tensors
    for_u, for_weight, for_bias = ctx.needs_input_grad[:3]
    grad_u = input_grad(grad, weight, list(u.shape), *ctx.rest) if for_u else None
    grad_weight = grad_bias = None
    if for_weight or for_bias:
        grad_weight, grad_bias = weight_grad(grad, u, list(weight.shape), ctx.bias_size, *ctx.rest)
    return grad_u, grad_weight, grad_bias if ctx.bias_size else None, *[None] * 5


def _save_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, weight, _, *rest = inputs
    ctx.save_for_backward(grad, weight)
    ctx.rest = rest


def _backward_of_input_grad(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    grad, weight = ctx.saved_tensors
    for_grad, for_weight = ctx.needs_input_grad[:2]
    grad_grad = deep_prism(cotangent, weight, None, *ctx.rest) if for_grad else None
    grad_weight = weight_grad(grad, cotangent, list(weight.shape), 0, *ctx.rest)[0] if for_weight else None
    return grad_grad, grad_weight, *[None] * 6


def _save_weight_grad(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, u, _, bias_size, *rest = inputs
    ctx.save_for_backward(grad, u)
    ctx.bias_size, ctx.rest = bias_size, rest


def _backward_of_weight_grad(ctx: Any, for_weight: Tensor, for_bias: Tensor) -> tuple[Any, ...]:
    grad, u = ctx.saved_tensors
    grad_grad = grad_u = None
    if ctx.needs_input_grad[0]:
        grad_grad = deep_prism(u, for_weight, None, *ctx.rest)
        if ctx.bias_size:
            grad_grad = grad_grad + for_bias.repeat_interleave(grad.shape[1] // ctx.bias_size)[:, None, None]
    if ctx.needs_input_grad[1]:
        grad_u = input_grad(grad, for_weight, list(u.shape), *ctx.rest)
    return grad_grad, grad_u, *[None] * 7


deep_prism.register_autograd(_backward, setup_context=_save)
input_grad.register_autograd(_backward_of_input_grad, setup_context=_save_input_grad)
weight_grad.register_autograd(_backward_of_weight_grad, setup_context=_save_weight_grad)


def _register_autocast(device: str, key: str) -> None:
    """Compute in the element type that autocast asks for, as torch's convolutions do."""

    def cast(x: Any, dtype: torch.dtype) -> Any:
        eligible = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(dtype) if eligible and x.device.type == device else x

    def rule(u: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            result: Tensor = deep_prism(cast(u, dtype), cast(weight, dtype), cast(bias, dtype), *rest)
        return result

    _LIBRARY.impl("deep_prism", rule, key)  # type: ignore[no-untyped-call]


_LIBRARY = torch.library.Library("prismify", "FRAGMENT")  # type: ignore[no-untyped-call]
_register_autocast("cpu", "AutocastCPU")
_register_autocast("cuda", "AutocastCUDA")
