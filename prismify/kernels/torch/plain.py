"""The operator in plain torch, as fast as plain torch can: the fallback, and the form that is exported.

Of the ways to write it, three win somewhere (`benchmarks/operator.py` measures them): `conv3d`, the
paper's listing, on small inputs; shifts of the whole tensor, for a few taps or where a compiler fuses
them; and for the rest a dense convolution over overlapping blocks of 16 channels whose weight is a band:
it multiplies by some zeros, but in the shape that convolution libraries are written for.

Half precision is computed in float32 and rounded once, on every processor: what torch's own kernels round in
between depends on the instructions a machine has.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..problem import HALF, Geometry, depth_of
from . import forms

#: Input channels of a block.
BLOCK = 16
#: Inputs below which one call of `conv3d` costs less than what surrounds the others.
SMALL = 1 << 15
#: Taps that are cheaper as shifts than as a band.
FEW_TAPS = 9


def deep_prism(u: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, *, fused: bool = False) -> Tensor:
    """The operator, as `prismify.kernels.deep_prism`.

    Args:
        u: (B, P*V, H, W).
        weight: (Q, P, K_C, K_H, K_W) or (K_C, K_H, K_W).
        bias: (Q,), (Q*V,) or None.
        fused: a compiler will fuse elementwise operations.
    """
    if u.dtype in HALF and u.dtype == weight.dtype:
        single = (u.float(), weight.float(), None if bias is None else bias.float())
        return deep_prism(*single, geometry, fused=fused).to(u.dtype)
    if weight.dim() == 3:
        weight = weight[None, None]
    if (form := forms.wanted_form()) is not None:
        return forms.deep_prism(u, weight, bias, geometry, form)
    q, p, *kernel = weight.shape
    depth = depth_of(u.shape[1], p, kernel[0], geometry.topology)
    alone, taps = p == q == 1, kernel[0] * kernel[1] * kernel[2]
    if alone and (fused or taps <= FEW_TAPS):
        y = _shifts(u, weight[0, 0], geometry)
    elif not torch.compiler.is_compiling() and u.numel() < SMALL:
        return reference.deep_prism(
            u,
            weight,
            bias,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            padding_mode=geometry.padding_mode,
            topology=geometry.topology,
        )
    else:
        y = _bands(u, weight, depth, geometry)
    if bias is None:
        return y
    return y + (bias if bias.shape[0] == q * depth else bias.repeat_interleave(depth))[:, None, None]


def _shifts(u: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The weighted sum of the padded input's slices, for a single volume."""
    k_c, k_h, k_w = weight.shape
    (s_h, s_w), (d_h, d_w) = geometry.stride, geometry.dilation
    x = _pad_channels(u[:, None], k_c // 2, 0, geometry.topology)
    x = _pad_pixels(x, geometry)[:, 0]
    height = (x.shape[2] - d_h * (k_h - 1) - 1) // s_h + 1
    width = (x.shape[3] - d_w * (k_w - 1) - 1) // s_w + 1
    y: Tensor | None = None
    for h, a, c in product(range(k_c), range(k_h), range(k_w)):
        i, j = a * d_h, c * d_w
        part = x[
            :,
            h : h + u.shape[1],
            i : i + (height - 1) * s_h + 1 : s_h,
            j : j + (width - 1) * s_w + 1 : s_w,
        ]
        y = part * weight[h, a, c] if y is None else torch.addcmul(y, part, weight[h, a, c])
    assert y is not None
    return y


def _bands(u: Tensor, weight: Tensor, depth: int, geometry: Geometry) -> Tensor:
    """A `conv2d` over overlapping blocks of channels, or over all of them where one block holds them."""
    q, p, k_c, k_h, k_w = weight.shape
    x = torch.unflatten(u, 1, (p, depth))
    whole = depth + k_c - 1 <= BLOCK or depth <= k_c
    tile = depth if whole else max(BLOCK - k_c + 1, k_c)
    blocks = -(-depth // tile)
    band = forms.banded(weight, tile)
    if whole and geometry.topology == "zero":
        # Padding channels that are zero need not be there.
        band, width = band.narrow(3, k_c // 2, depth), depth
    else:
        x, width = _pad_channels(x, k_c // 2, blocks * tile - depth, geometry.topology), tile + k_c - 1
    x = _pad_pixels(x, geometry, skip_zeros=True)
    x = x.unfold(2, width, tile).permute(0, 2, 1, 5, 3, 4)
    y = F.conv2d(
        x.flatten(0, 1).flatten(1, 2),
        band.reshape(q * tile, p * width, k_h, k_w),
        stride=geometry.stride,
        padding=geometry.padding if geometry.padding_mode == "zeros" else (0, 0),
        dilation=geometry.dilation,
    )
    y = torch.unflatten(torch.unflatten(y, 0, (-1, blocks)), 2, (q, tile)).transpose(1, 2).flatten(2, 3)
    return y.narrow(2, 0, depth).flatten(1, 2)


def _pad_channels(x: Tensor, pad: int, extra: int, topology: str) -> Tensor:
    """Pad the third axis of (B, P, V, H, W) by its topology, and by `extra` zeros at the end."""
    if topology == "zero":
        return F.pad(x, (0, 0, 0, 0, pad, pad + extra)) if pad + extra else x
    if pad:
        x = F.pad(x, (0, 0, 0, 0, pad, pad), mode=topology)
    return F.pad(x, (0, 0, 0, 0, 0, extra)) if extra else x


def _pad_pixels(x: Tensor, geometry: Geometry, skip_zeros: bool = False) -> Tensor:
    """Pad the last two axes of (B, P, V, H, W); not with zeros where a convolution will."""
    (top, left), mode = geometry.padding, geometry.padding_mode
    if not (top or left) or (skip_zeros and mode == "zeros"):
        return x
    pads = (left, left, top, top, 0, 0)
    return F.pad(x, pads[:4]) if mode == "zeros" else F.pad(x, pads, mode=mode)
