"""DeepPrism: one 3-D kernel that slides over channels, height and width (Eq. 3)."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import PaddingMode, Topology, deep_prism
from .volumes import check_channel_kernel, check_volumes, check_words, volumes_of

Bias = Literal["scalar", "channel"]


class DeepPrism(nn.Module):
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

    Shape: (B, C_in, H, W) or (C_in, H, W) -> C_out channels and the spatial size of the `nn.Conv2d`
    with the same geometry.

    Raises:
        ShapeError: the volumes do not fit the widths, or the channel kernel is even or too large.

    Example:
        >>> layer = DeepPrism(64)
        >>> sum(p.numel() for p in layer.parameters())
        28
        >>> layer(torch.zeros(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        *,
        channel_kernel_size: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str | None = None,
        dilation: int | tuple[int, int] = 1,
        padding_mode: PaddingMode = "zeros",
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        self.in_channels, self.out_channels = in_channels, out_channels
        p, q = volumes_of(in_channels, out_channels) if volumes is None else volumes
        self.volumes = (p, q)
        depth = check_volumes(in_channels, out_channels, self.volumes)
        check_channel_kernel(channel_kernel_size, depth)
        check_words(topology, bias)
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ShapeError(f"padding_mode {padding_mode!r} is not one of zeros, reflect, replicate, circular")
        self.kernel_size = _pair(kernel_size)
        self.channel_kernel_size = channel_kernel_size
        self.stride, self.dilation = _pair(stride), _pair(dilation)
        self.groups = 1
        self.padding_mode: PaddingMode = padding_mode
        self.topology: Topology = topology
        self.padding, self._extra_padding = self._resolve_padding(padding)
        self.weight = nn.Parameter(
            torch.empty(q, p, channel_kernel_size, *self.kernel_size, device=device, dtype=dtype)
        )
        self.bias_kind: Bias | None = bias
        if bias is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(q if bias == "scalar" else out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        *,
        channel_kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias = "scalar",
    ) -> Self:
        """The DeepPrism with the geometry, device and dtype of `conv`; freshly initialised.

        A bias is kept only where `conv` has one, in the form `bias` names.

        Raises:
            ShapeError: `conv` is grouped, transposed or not two-dimensional.
        """
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
            raise ShapeError(f"{conv} is not an ungrouped Conv2d; DeepPrism cannot take its place")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            cast(tuple[int, int], conv.kernel_size),
            channel_kernel_size=channel_kernel_size,
            stride=cast(tuple[int, int], conv.stride),
            padding=cast(Any, conv.padding),
            dilation=cast(tuple[int, int], conv.dilation),
            padding_mode=conv.padding_mode,
            bias=bias if conv.bias is not None else None,
            topology=topology,
            volumes=volumes,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of the signal (fan-in P*27); biases start at zero."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        u = input
        if u.dim() == 3:
            return self.forward(u[None]).squeeze(0)
        if u.dim() != 4 or u.shape[1] != self.in_channels:
            raise ShapeError(
                f"DeepPrism expects (B, {self.in_channels}, H, W) or ({self.in_channels}, H, W), got {tuple(u.shape)}"
            )
        if any(self._extra_padding):
            u = F.pad(u, self._extra_padding)
        return deep_prism(
            u,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
            topology=self.topology,
        )

    def extra_repr(self) -> str:
        p, q = self.volumes
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", channel_kernel_size={self.channel_kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}, topology={self.topology}, bias={self.bias_kind}"
        return text if (p, q) == (1, 1) else text + f", volumes={p}->{q}"

    def _resolve_padding(
        self, padding: int | tuple[int, int] | str | None
    ) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """Symmetric padding for the operator, and what "same" with an even kernel adds beside it."""
        if padding is None:
            return cast(
                tuple[int, int],
                tuple(k // 2 * d for k, d in zip(self.kernel_size, self.dilation, strict=True)),
            ), (0,) * 4
        if padding == "valid":
            return (0, 0), (0,) * 4
        if padding == "same":
            if self.stride != (1, 1):
                raise ShapeError("padding='same' needs stride 1, as in nn.Conv2d")
            total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            if any(t % 2 for t in total):
                if self.padding_mode != "zeros":
                    raise ShapeError("padding='same' with an even kernel needs padding_mode='zeros'")
                left = [t // 2 for t in total]
                return (0, 0), (left[1], total[1] - left[1], left[0], total[0] - left[0])
            return (total[0] // 2, total[1] // 2), (0,) * 4
        if isinstance(padding, str):
            raise ShapeError(f"padding {padding!r} is neither numbers, 'same' nor 'valid'")
        return _pair(padding), (0,) * 4


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
