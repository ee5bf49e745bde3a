"""The operators as functions: what layers call. Each call goes to the engine that serves it."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from . import autograd, ops
from .engine import Run
from .engines import ENGINES, choose, forced, opaque
from .problem import Geometry, Problem, cached_geometry, cached_problem, depth_of, make_problem
from .torch import plain
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
    if torch.compiler.is_compiling() or seen_by_others(u, weight, bias):
        return _registered(u, weight, bias, Geometry(stride, padding, dilation, padding_mode, topology))
    device = u.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        u, weight, bias = (cast(Tensor, _cast(x, device, dtype)) for x in (u, weight, bias))
    bias_size = 0 if bias is None else bias.shape[0]
    if u.dtype != weight.dtype:
        geometry = cached_geometry(stride, padding, dilation, padding_mode, topology)
        # Torch's own words on what does not go together.
        problem = cached_problem(u.shape, weight.shape, bias_size, geometry)
        return ENGINES["reference"].run().forward(u, weight, bias, problem)
    problem, transparent, run = _served(
        u.shape, weight.shape, bias_size, stride, padding, dilation, padding_mode, topology, device, u.dtype, forced()
    )
    if transparent:
        return run.forward(u, weight, bias, problem)
    learns = u.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if (learns and torch.is_grad_enabled()) or differentiates_otherwise():
        return autograd.forward(u, weight, bias, problem, run)
    return run.forward(u, weight, bias, problem)


@lru_cache(maxsize=4096)
def _served(
    u: tuple[int, ...],
    weight: tuple[int, ...],
    bias_size: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    padding_mode: PaddingMode,
    topology: Topology,
    device: str,
    dtype: torch.dtype,
    forced: str | None,
) -> tuple[Problem, bool, Run]:
    """What a call is, whether its engine is transparent, and what computes it: a layer asks the same at every step.

    Args:
        forced: the engine of `use_engine`, which `choose` takes.
    """
    geometry = cached_geometry(stride, padding, dilation, padding_mode, topology)
    problem = cached_problem(u, weight, bias_size, geometry)
    engine = choose(problem, device, dtype)
    return problem, engine.transparent, engine.run()


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
        maps = u.flatten(2) if u.dim() > 2 else u[:, :, None]
        y = deep_prism(maps[:, :, None], kernel, bias, topology=topology)
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


def _registered(u: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The call as compilers, transforms, modes and autocast should see it."""
    if in_plain_torch(u.device.type):
        make_problem(u.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
        fused = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
        return plain.deep_prism(u, weight, bias, geometry, fused=fused)
    result: Tensor = ops.deep_prism(u, weight, bias, *_arguments(geometry))
    return result


def in_plain_torch(device: str) -> bool:
    """Whether a call that others see is to be torch's own operators, and not the registered one."""
    if exporting():
        return True
    # Whoever records calls, as a scan does, is to find the layer that made them.
    watched = not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() > 0
    recorded = watched and not torch.is_grad_enabled()
    return not recorded and not opaque(device)


def exporting() -> bool:
    """Whether the model will run without this package: by `torch.export` or `torch.jit.trace`."""
    if torch.compiler.is_exporting():
        return True
    # A compiler cannot follow the private question.
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def _arguments(geometry: Geometry) -> tuple[list[int], list[int], list[int], str, str]:
    pairs = (list(geometry.stride), list(geometry.padding), list(geometry.dilation))
    return *pairs, geometry.padding_mode, geometry.topology


def _cast(x: Tensor | None, device: str, dtype: torch.dtype) -> Tensor | None:
    """What autocast does to an argument of a convolution."""
    if x is None or not x.is_floating_point() or x.dtype == torch.float64 or x.device.type != device:
        return x
    return x.to(dtype)


def differentiates_otherwise() -> bool:
    """Whether a function transform or forward-mode differentiation is on: tensors may look like any other."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


_KINDS = frozenset({Tensor, nn.Parameter})


def seen_by_others(u: Tensor, *others: Tensor | None) -> bool:
    """Whether a call is on fake tensors or subclasses, or a dispatch mode watches it."""
    if type(u) not in _KINDS:
        return True
    for other in others:  # no generator: this runs at every call of every layer
        if other is not None and type(other) not in _KINDS:
            return True
    return watched() or u.is_meta


def watched() -> bool:
    """Whether a dispatch mode or a tracer sees every call."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._is_tracing()
