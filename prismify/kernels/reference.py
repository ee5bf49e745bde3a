"""The definition of the operators, in plain torch: what every other formulation is judged by, in float64.

The operator is the paper's own listing, `Conv3d` over the volumes; it is right, and slow.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .problem import depth_of
from .types import PaddingMode, Topology

_PAD_MODE = {"zero": "constant", "zeros": "constant"}


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
        ShapeError: K_C is even or larger than 2*V - 1, or the channels do not split into P volumes.

    Example:
        >>> import torch
        >>> u = torch.randn(2, 16, 8, 8)
        >>> deep_prism(u, torch.randn(3, 3, 3), padding=(1, 1)).shape
        torch.Size([2, 16, 8, 8])
    """
    if weight.dim() == 3:
        weight = weight[None, None]
    volumes_out, volumes_in, k_c, *_ = weight.shape
    depth = depth_of(u.shape[1], volumes_in, k_c, topology)

    x = torch.unflatten(u, 1, (volumes_in, depth))
    if topology != "zero":
        x = _pad(x, (0, 0, 0, 0, k_c // 2, k_c // 2), topology)
    if padding_mode != "zeros":
        x = _pad(x, (padding[1], padding[1], padding[0], padding[0], 0, 0), padding_mode)
    y = F.conv3d(
        x,
        weight,
        bias if bias is not None and bias.numel() == volumes_out else None,
        stride=(1, *stride),
        padding=(
            k_c // 2 if topology == "zero" else 0,
            *(padding if padding_mode == "zeros" else (0, 0)),
        ),
        dilation=(1, *dilation),
    ).flatten(1, 2)
    if bias is not None and bias.numel() != volumes_out:
        y = y + bias[:, None, None]
    return y


def prism(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    topology: Topology = "zero",
) -> Tensor:
    """1-D convolution along the channel axis, the same weights at every position (Prism, Eq. 1).

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
    if weight.dim() == 1:
        weight = weight[None, None]
    x = u if dim == -1 else u.movedim(dim, -1)
    volumes_out, volumes_in, k = weight.shape
    depth = depth_of(x.shape[-1], volumes_in, k, topology)
    y = x.reshape(-1, volumes_in, depth)
    if topology != "zero":
        y = _pad(y, (k // 2, k // 2), topology)
    y = F.conv1d(
        y,
        weight,
        bias if bias is not None and bias.numel() == volumes_out else None,
        padding=k // 2 if topology == "zero" else 0,
    )
    y = y.reshape(*x.shape[:-1], volumes_out * depth)
    if bias is not None and bias.numel() != volumes_out:
        y = y + bias
    return y if dim == -1 else y.movedim(-1, dim)


def _pad(x: Tensor, pads: tuple[int, ...], mode: str) -> Tensor:
    return F.pad(x, pads, mode=_PAD_MODE.get(mode, mode)) if any(pads) else x
