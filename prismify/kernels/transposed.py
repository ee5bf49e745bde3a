"""The adjoint of the operator: what a transposed convolution is to a convolution. Computed as its input gradient."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from . import autograd, ops
from .adjoint import plain_adjoint
from .engines import choose
from .functional import _arguments, _cast, in_plain_torch, seen_by_others
from .problem import Geometry, cached_problem, depth_of
from .types import Topology


def deep_prism_transposed(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    topology: Topology = "zero",
) -> Tensor:
    """The adjoint of `deep_prism` with the same weight: it sends each element to all that one came from.

    For all x and y, `(deep_prism(x, weight) * y).sum() == (x * deep_prism_transposed(y, weight)).sum()`.

    Args:
        u: feature map, shape (B, P*V, H, W).
        weight: shape (P, Q, K_C, K_H, K_W), input volumes first, as `nn.ConvTranspose2d` has it; K_C is odd.
        bias: shape (Q,), one number a volume, or (Q*V,), one number a channel.
        stride, padding, output_padding, dilation: as in `torch.nn.functional.conv_transpose2d`.
        topology: padding of the channel axis of the operator whose adjoint this is.

    Returns:
        shape (B, Q*V, H', W'), with H' and W' those of a `conv_transpose2d` with the same geometry.

    Raises:
        ShapeError: the kernel, the bias or the output padding does not fit.

    Example:
        >>> import torch
        >>> u = torch.randn(2, 16, 8, 8)
        >>> deep_prism_transposed(u, torch.randn(1, 1, 3, 4, 4), stride=(2, 2), padding=(1, 1)).shape
        torch.Size([2, 16, 16, 16])
    """
    if u.dim() != 4 or weight.dim() != 5:
        raise ShapeError(
            f"the operator takes (B, C, H, W) and a kernel of 5 axes, got {tuple(u.shape)} and {tuple(weight.shape)}"
        )
    if any(o >= max(s, d) for o, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise ShapeError(f"output padding {output_padding} must be smaller than stride {stride} or dilation {dilation}")
    depth = depth_of(u.shape[1], weight.shape[0], weight.shape[2], topology)
    channels = weight.shape[1] * depth
    if bias is not None and bias.shape[0] not in (weight.shape[1], channels):
        raise ShapeError(f"a bias of {bias.shape[0]} numbers fits neither {weight.shape[1]} volumes nor {channels}")
    device = u.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        u, weight, bias = (cast(Tensor, _cast(x, device, dtype)) for x in (u, weight, bias))
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(
            u.shape[2:], stride, padding, dilation, weight.shape[3:], output_padding, strict=True
        )
    )
    # Where dilation lets the output be padded by a whole stride and more, zeros stand for inputs that are not there.
    extra = [o // s for o, s in zip(output_padding, stride, strict=True)]
    u = F.pad(u, (0, extra[1], 0, extra[0])) if any(extra) else u
    y = _adjoint(u, weight, size, Geometry(stride, padding, dilation, "zeros", topology))
    if bias is None:
        return y
    return y + (bias if bias.shape[0] == channels else bias.repeat_interleave(depth))[:, None, None]


def _adjoint(u: Tensor, weight: Tensor, size: tuple[int, ...], geometry: Geometry) -> Tensor:
    """The input of shape (B, Q*V, *size) that the gradient `u` of the operator's output goes to."""
    device, seen = u.device.type, torch.compiler.is_compiling() or seen_by_others(u, weight, None)
    shape = (u.shape[0], u.shape[1] // weight.shape[0] * weight.shape[1], *size)
    if seen and in_plain_torch(device):
        return plain_adjoint(u, weight, size, geometry)
    if seen:
        with torch.autocast(device, enabled=False):
            result: Tensor = ops.input_grad(u, weight, list(shape), *_arguments(geometry))
        return result
    problem = cached_problem(shape, tuple(weight.shape), 0, geometry)
    engine = choose(problem, device, u.dtype)
    if engine.transparent:
        return plain_adjoint(u, weight, size, geometry)
    run = engine.run()
    learns = (u.requires_grad or weight.requires_grad) and torch.is_grad_enabled()
    if learns or torch._C._are_functorch_transforms_active() or _dual():
        return autograd.input_grad(u, weight, problem, run)
    return run.input_grad(u, weight, problem)


def _dual() -> bool:
    return bool(torch.autograd.forward_ad._current_level >= 0)
