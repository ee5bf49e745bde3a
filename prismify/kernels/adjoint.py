"""The operator's adjoint in plain torch: differentiable, and not by way of autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .problem import HALF, Geometry


def plain_adjoint(u: Tensor, weight: Tensor, size: tuple[int, ...], geometry: Geometry) -> Tensor:
    """The operator's adjoint: `conv_transpose3d` over the volumes, with the adjoint of what pads the channels.

    Args:
        u: (B, Q*V, H', W'), as the operator's output.
        weight: (Q, P, K_C, K_H, K_W) or (K_C, K_H, K_W), the operator's.
        size: (H, W) of the operator's input.
        geometry: the operator's, padded with zeros in space.

    Returns:
        (B, P*V, H, W).
    """
    if u.dtype in HALF and u.dtype == weight.dtype:  # rounded once, whatever the processor
        return plain_adjoint(u.float(), weight.float(), size, geometry).to(u.dtype)
    if weight.dim() == 3:
        weight = weight[None, None]
    half = weight.shape[2] // 2
    x = torch.unflatten(u, 1, (weight.shape[0], -1))
    depth, cut = x.shape[2], half
    if geometry.topology == "circular" and half:
        x, cut = F.pad(x, (0, 0, 0, 0, half, half), mode="circular"), 2 * half
    if geometry.topology == "replicate":
        cut = 0
    missing = [
        wanted - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
        for wanted, n, s, p, d, k in zip(
            size, u.shape[2:], geometry.stride, geometry.padding, geometry.dilation, weight.shape[3:], strict=True
        )
    ]
    y = F.conv_transpose3d(
        x,
        weight,
        stride=(1, *geometry.stride),
        padding=(cut, *geometry.padding),
        output_padding=(0, *missing),
        dilation=(1, *geometry.dilation),
    )
    if geometry.topology == "replicate" and half:
        body, first, last = y.narrow(2, half, depth), y.narrow(2, 0, half), y.narrow(2, half + depth, half)
        ends = [first.sum(2, keepdim=True), last.sum(2, keepdim=True)]
        y = body + F.pad(ends[0], (0, 0, 0, 0, 0, depth - 1)) + F.pad(ends[1], (0, 0, 0, 0, depth - 1, 0))
    return y.flatten(1, 2)
