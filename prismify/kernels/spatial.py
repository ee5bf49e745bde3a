"""The operator and its adjoint with one, two or three spatial axes: a sequence, an image, a video.

Engines know two spatial axes. A sequence is an image of one row; a video is a batch of frames, and a kernel
over K_T of them is the sum of K_T kernels over frames that are shifted against one another.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from .functional import deep_prism
from .problem import Geometry, output_size
from .transposed import deep_prism_transposed
from .types import PADDING_MODES, PaddingMode, Topology

Sizes = tuple[int, ...]
_Pair = tuple[int, int]


def deep_prism_nd(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    padding_mode: PaddingMode = "zeros",
    topology: Topology = "zero",
) -> Tensor:
    """Convolution over volumes (V, L), (V, H, W) or (V, T, H, W): one axis more than the paper's for a video.

    Args:
        u: (B, P*V, L), (B, P*V, H, W) or (B, P*V, T, H, W).
        weight: (Q, P, K_C, K_L), (Q, P, K_C, K_H, K_W) or (Q, P, K_C, K_T, K_H, K_W); K_C is odd.
        bias: shape (Q,), one number a volume, or (Q*V,), one number a channel.
        stride, padding, dilation: of each spatial axis.
        padding_mode: of the spatial axes.
        topology: padding of the channel axis, within each volume (Table 1).

    Returns:
        Q*V channels, and the spatial size of a convolution with the same geometry.

    Raises:
        ShapeError: as `deep_prism`.

    Example:
        >>> import torch
        >>> video = torch.zeros(1, 16, 5, 8, 8)
        >>> ones = (1, 1, 1)
        >>> deep_prism_nd(video, torch.zeros(1, 1, 3, 3, 3, 3), stride=ones, padding=(0, 1, 1), dilation=ones).shape
        torch.Size([1, 16, 3, 8, 8])
    """
    axes = len(stride)
    if u.dim() != axes + 2 or weight.dim() != axes + 3:
        raise ShapeError(f"{axes} spatial axes do not fit {tuple(u.shape)} and a kernel {tuple(weight.shape)}")
    if axes == 1:
        row = deep_prism(
            u[:, :, None],
            weight[:, :, :, None],
            bias,
            stride=(1, stride[0]),
            padding=(0, padding[0]),
            dilation=(1, dilation[0]),
            padding_mode=padding_mode,
            topology=topology,
        )
        return row[:, :, 0]
    if axes == 3:
        return _over_frames(u, weight, bias, stride, padding, dilation, padding_mode, topology)
    return deep_prism(
        u,
        weight,
        bias,
        stride=cast(_Pair, stride),
        padding=cast(_Pair, padding),
        dilation=cast(_Pair, dilation),
        padding_mode=padding_mode,
        topology=topology,
    )


def deep_prism_transposed_nd(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    topology: Topology = "zero",
) -> Tensor:
    """The adjoint of `deep_prism_nd`, as `deep_prism_transposed`: weights (P, Q, K_C, ...), input volumes first.

    Raises:
        ShapeError: the kernel, the bias or the output padding does not fit.

    Example:
        >>> import torch
        >>> weight = torch.zeros(1, 1, 3, 4)
        >>> upsample = {"stride": (2,), "padding": (1,), "output_padding": (0,), "dilation": (1,)}
        >>> deep_prism_transposed_nd(torch.zeros(1, 16, 9), weight, **upsample).shape
        torch.Size([1, 16, 18])
    """
    axes = len(stride)
    if u.dim() != axes + 2 or weight.dim() != axes + 3:
        raise ShapeError(f"{axes} spatial axes do not fit {tuple(u.shape)} and a kernel {tuple(weight.shape)}")
    if axes == 1:
        row = deep_prism_transposed(
            u[:, :, None],
            weight[:, :, :, None],
            bias,
            stride=(1, stride[0]),
            padding=(0, padding[0]),
            output_padding=(0, output_padding[0]),
            dilation=(1, dilation[0]),
            topology=topology,
        )
        return row[:, :, 0]
    if axes == 3:
        return _from_frames(u, weight, bias, stride, padding, output_padding, dilation, topology)
    return deep_prism_transposed(
        u,
        weight,
        bias,
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        output_padding=(output_padding[0], output_padding[1]),
        dilation=(dilation[0], dilation[1]),
        topology=topology,
    )


def _over_frames(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    padding_mode: PaddingMode,
    topology: Topology,
) -> Tensor:
    """The sum over K_T of two-dimensional operators: faster than one over K_T volumes of frames, in less memory."""
    (s, s_h, s_w), (p, p_h, p_w), (d, d_h, d_w) = stride, padding, dilation
    if padding_mode not in PADDING_MODES:
        raise ShapeError(f"padding_mode {padding_mode!r} is not one of {', '.join(PADDING_MODES)}")
    k = weight.shape[3]
    count = output_size((u.shape[2], 1), (k, 1), Geometry((s, 1), (p, 0), (d, 1)))[0]
    if p:
        mode = "constant" if padding_mode == "zeros" else padding_mode
        u = F.pad(u, (0, 0, 0, 0, p, p), mode=mode)
    frames = u.transpose(1, 2)
    y: Tensor | None = None
    for a in range(k):
        part = deep_prism(
            frames[:, a * d : a * d + (count - 1) * s + 1 : s].flatten(0, 1),
            weight[:, :, :, a],
            bias if a == 0 else None,
            stride=(s_h, s_w),
            padding=(p_h, p_w),
            dilation=(d_h, d_w),
            padding_mode=padding_mode,
            topology=topology,
        )
        y = part if y is None else y + part
    assert y is not None
    return torch.unflatten(y, 0, (-1, count)).transpose(1, 2)


def _from_frames(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    topology: Topology,
) -> Tensor:
    """The adjoint of `_over_frames`: every frame is added to the K_T frames it came from."""
    s, p, o, d = stride[0], padding[0], output_padding[0], dilation[0]
    if o >= max(s, d):
        raise ShapeError(f"output padding {output_padding} must be smaller than stride {stride} or dilation {dilation}")
    count, k = u.shape[2], weight.shape[3]
    frames = u.transpose(1, 2).flatten(0, 1)
    whole: Tensor | None = None
    for a in range(k):
        part = deep_prism_transposed(
            frames,
            weight[:, :, :, a],
            stride=(stride[1], stride[2]),
            padding=(padding[1], padding[2]),
            output_padding=(output_padding[1], output_padding[2]),
            dilation=(dilation[1], dilation[2]),
            topology=topology,
        )
        part = torch.unflatten(part, 0, (-1, count))
        if whole is None:
            whole = part.new_zeros(part.shape[0], (count - 1) * s + d * (k - 1) + 1 + o, *part.shape[2:])
        whole[:, a * d : a * d + (count - 1) * s + 1 : s] += part
    assert whole is not None
    y = whole[:, p : whole.shape[1] - p].transpose(1, 2)
    if bias is None:
        return y
    channels = bias if bias.shape[0] == y.shape[1] else bias.repeat_interleave(y.shape[1] // bias.shape[0])
    return y + channels[:, None, None, None]
