"""The operators as functions: what layers call. Each call goes to the engine that serves it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from . import plain
from .engines import ENGINES, TRANSPARENT, Run, choose, opaque
from .problem import Geometry, Problem, cached_geometry, cached_problem, depth_of
from .types import PaddingMode, Topology


def deep_prism(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    padding_mode: PaddingMode = "zeros",
    topology: Topology = "zero",
) -> Tensor:
    """3-D convolution over the volumes (V, H, W) that the channels of `u` form (DeepPrism, Eq. 3).

    The channels of `u` are P volumes of V neighbouring channels; every output volume sees all of them.
    P = Q = 1 is the paper's operator. The channel axis keeps its length (stride 1, padding K_C // 2).

    Args:
        u: feature map, shape (B, P*V, H, W).
        weight: shape (Q, P, K_C, K_H, K_W), or (K_C, K_H, K_W) for a single volume; K_C is odd.
        bias: shape (Q,), one number a volume, or (Q*V,), one number a channel.
        stride, padding, dilation: of the two spatial axes, as in `torch.nn.functional.conv2d`.
        padding_mode: of the spatial axes.
        topology: padding of the channel axis, within each volume (Table 1).

    Returns:
        shape (B, Q*V, H', W'), with H' and W' those of a `conv2d` with the same geometry.

    Raises:
        ShapeError: K_C is even or larger than 2*V - 1, the channels do not split into P volumes, or the
            geometry does not fit the input.

    Example:
        >>> import torch
        >>> u = torch.randn(2, 16, 8, 8)
        >>> deep_prism(u, torch.randn(3, 3, 3), padding=(1, 1)).shape
        torch.Size([2, 16, 8, 8])
    """
    if torch.compiler.is_compiling() or not _ordinary(u, weight, bias):
        return _registered(u, weight, bias, Geometry(stride, padding, dilation, padding_mode, topology))
    geometry = cached_geometry(stride, padding, dilation, padding_mode, topology)
    problem = cached_problem(u.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    if u.dtype != weight.dtype:
        # Torch's own words on what does not go together.
        return ENGINES["reference"].run().forward(u, weight, bias, problem)
    engine = choose(problem, u.device.type, u.dtype)
    run = engine.run()
    if engine.name not in TRANSPARENT and torch.is_grad_enabled():
        if u.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad):
            return cast(Tensor, _Eager.apply(u, weight, bias, problem, run))
    return run.forward(u, weight, bias, problem)


def prism(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    topology: Topology = "zero",
) -> Tensor:
    """1-D convolution along the channel axis, the same weights at every position (Prism, Eq. 1).

    It is computed as a `deep_prism` that sees channels as columns (tokens) or as depth (feature maps).

    Args:
        u: tokens (..., P*V) with `dim=-1`, or a feature map (B, P*V, ...) with `dim=1`.
        weight: shape (Q, P, K) or (K,) for a single volume; K is odd.
        bias: shape (Q,), one number a volume, or (Q*V,), one number a channel.
        dim: the channel axis, -1 or 1.
        topology: padding of the channel axis, within each volume (Table 1).

    Returns:
        the shape of `u` with Q*V channels.

    Raises:
        ShapeError: K is even or larger than 2*V - 1, or the channels do not split into P volumes.
    """
    volumes_out, volumes_in, k = weight.shape if weight.dim() == 3 else (1, 1, weight.shape[0])
    depth = depth_of(u.shape[dim], volumes_in, k, topology)
    inside = bias if bias is None or bias.shape[0] == volumes_out else None
    outside = bias if inside is None else None
    if dim == 1 and not _channels_lie_last(u):
        kernel = weight.reshape(volumes_out, volumes_in, k, 1, 1)
        if u.dim() == 4:
            return deep_prism(u, kernel, bias, topology=topology)
        y = deep_prism(u.reshape(u.shape[0], u.shape[1], 1, -1), kernel, bias, topology=topology)
        return y.reshape(u.shape[0], volumes_out * depth, *u.shape[2:])
    x = u if dim == -1 else u.movedim(1, -1)
    y = deep_prism(
        x.reshape(-1, volumes_in, 1, depth),
        weight.reshape(volumes_out, volumes_in, 1, 1, k),
        inside,
        padding=(0, k // 2),
        padding_mode=_TOPOLOGY_AS_PADDING[topology],
    ).reshape(*x.shape[:-1], volumes_out * depth)
    if outside is not None:
        y = y + outside
    return y if dim == -1 else y.movedim(-1, 1)


_TOPOLOGY_AS_PADDING: dict[Topology, PaddingMode] = {
    "zero": "zeros",
    "replicate": "replicate",
    "circular": "circular",
}


def _channels_lie_last(u: Tensor) -> bool:
    return u.dim() == 4 and u.stride(1) == 1 and not u.is_contiguous()


class _Eager(torch.autograd.Function):
    """The operator on plain tensors, without the registry's way round: a third of the time of a small call."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, run: Run
    ) -> Tensor:
        ctx.save_for_backward(u, weight)
        ctx.problem, ctx.run = problem, run
        return run.forward(u, weight, bias, problem)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        u, weight = ctx.saved_tensors
        problem: Problem = ctx.problem
        run: Run = ctx.run
        for_u, for_weight, for_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not _ordinary(u, weight, grad):
            return (*_registered_gradients(grad, u, weight, problem, (for_u, for_weight or for_bias)), None, None)
        grad_u = run.input_grad(grad, weight, problem) if for_u else None
        grad_weight = grad_bias = None
        if for_weight or for_bias:
            grad_weight, grad_bias = run.weight_grad(grad, u, problem, tuple(weight.shape))
        return grad_u, grad_weight, grad_bias, None, None


def _registered(u: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The call as compilers, transforms, modes and autocast should see it."""
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    if exporting or not opaque(u.device.type):
        # An exported model runs without this package.
        return plain.deep_prism(u, weight, bias, geometry, fused=torch.compiler.is_compiling() and not exporting)
    from . import ops

    return ops.deep_prism(u, weight, bias, *_arguments(geometry))


def _registered_gradients(
    grad: Tensor, u: Tensor, weight: Tensor, problem: Problem, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients by operators that are differentiable themselves."""
    from . import ops

    rest = _arguments(problem.geometry)
    grad_u = ops.input_grad(grad, weight, list(u.shape), *rest) if wanted[0] else None
    if not wanted[1]:
        return grad_u, None, None
    grad_weight, grad_bias = ops.weight_grad(grad, u, list(weight.shape), problem.bias_size, *rest)
    return grad_u, grad_weight, grad_bias if problem.bias_size else None


def _arguments(geometry: Geometry) -> tuple[list[int], list[int], list[int], str, str]:
    pairs = (list(geometry.stride), list(geometry.padding), list(geometry.dilation))
    return *pairs, geometry.padding_mode, geometry.topology


def _ordinary(u: Tensor, weight: Tensor, other: Tensor | None) -> bool:
    """Whether a call is on plain tensors, and nothing but autograd watches it."""
    plain_types = (Tensor, nn.Parameter)
    return (
        type(u) in plain_types
        and type(weight) in plain_types
        and (other is None or type(other) in plain_types)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch.is_autocast_enabled(u.device.type)
        and not torch.jit.is_tracing()
        and u.device.type != "meta"
    )
