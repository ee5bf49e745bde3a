"""DeepPrism: one 3-D kernel that slides over channels, height and width (Eq. 3); over sequences and videos alike."""

from __future__ import annotations

from typing import Any, Self

from torch import nn

from .volumetric import Bias, DeepPrismNd

__all__ = ["Bias", "DeepPrism", "DeepPrism1d", "DeepPrism3d"]


class DeepPrism(DeepPrismNd):
    """3-D convolution over the volume (C, H, W): 27 weights where a convolution has 9*C² (Eq. 3).

    With P input and Q output volumes of V channels each (C_in = P*V, C_out = Q*V) the kernel has
    Q*P*27 weights; P = Q = 1 is the paper's. The channel axis keeps its length.

    Args:
        in_channels: C_in.
        out_channels: C_out; `in_channels` when left out.
        kernel_size: of the two spatial axes.
        channel_kernel_size: of the channel axis; odd.
        stride, dilation, padding_mode: of the spatial axes, as in `nn.Conv2d`.
        padding: as in `nn.Conv2d`, or None for the padding that keeps H and W at stride 1.
        bias: "scalar" (one number a volume, the paper's), "channel" (one a channel), or None.
        topology: padding of the channel axis: "zero", "replicate" or "circular" (Table 1).
        volumes: (P, Q); None takes the greatest common divisor of the widths as depth.
        channel_dilation: the kernel reads every d-th channel of a volume; d divides V.

    Shape: (B, C_in, H, W) or (C_in, H, W) -> C_out channels and the spatial size of the `nn.Conv2d`
    with the same geometry.

    Raises:
        ShapeError: the volumes do not fit the widths, or the channel kernel is even or too large.

    Example:
        >>> import torch
        >>> layer = DeepPrism(64)
        >>> sum(p.numel() for p in layer.parameters())
        28
        >>> layer(torch.zeros(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    spatial_dims = 2

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """`from_conv`, by the name of the layer whose place it takes, as `Prism.from_linear` has it.

        Raises:
            ShapeError: `conv` is grouped, transposed or not two-dimensional.
        """
        return cls.from_conv(conv, **options)


class DeepPrism1d(DeepPrismNd):
    """DeepPrism of a sequence: one 2-D kernel over (C, L), 9 weights where a `Conv1d` has 3*C² (Eq. 3).

    Args, bias, volumes and topology as `DeepPrism`; one spatial axis.

    Shape: (B, C_in, L) or (C_in, L) -> C_out channels and the length of the `nn.Conv1d` with the same geometry.

    Example:
        >>> import torch
        >>> layer = DeepPrism1d(64)
        >>> layer(torch.zeros(2, 64, 11)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([2, 64, 11]), 10)
    """

    spatial_dims = 1


class DeepPrism3d(DeepPrismNd):
    """DeepPrism of a video: one 4-D kernel over (C, T, H, W), 81 weights where a `Conv3d` has 27*C² (Eq. 3).

    Args, bias, volumes and topology as `DeepPrism`; three spatial axes, of which time comes first.

    Shape: (B, C_in, T, H, W) or (C_in, T, H, W) -> C_out channels and the size of the `nn.Conv3d` with the
    same geometry.

    Example:
        >>> import torch
        >>> layer = DeepPrism3d(64, padding=(0, 1, 1))
        >>> layer(torch.zeros(1, 64, 5, 8, 8)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([1, 64, 3, 8, 8]), 82)
    """

    spatial_dims = 3
