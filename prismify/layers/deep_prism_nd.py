"""DeepPrism over sequences and videos, and its transposed forms: one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import PaddingMode, Topology, deep_prism_nd, deep_prism_transposed_nd
from .deep_prism import Bias
from .volumes import check_channel_kernel, check_volumes, check_words, volumes_of

Size = int | tuple[int, ...]
_NAMES = {1: "(B, C, L)", 2: "(B, C, H, W)", 3: "(B, C, T, H, W)"}


class _Volumes(nn.Module):
    """What all forms share: geometry, weight and bias. The weight is (volumes, volumes, K_C, *kernel_size)."""

    spatial_dims: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        kernel_size: Size,
        channel_kernel_size: int,
        stride: Size,
        dilation: Size,
        bias: Bias | None,
        topology: Topology,
        volumes: tuple[int, int] | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        self.in_channels, self.out_channels = in_channels, out_channels
        p, q = volumes_of(in_channels, out_channels) if volumes is None else volumes
        self.volumes = (p, q)
        check_channel_kernel(channel_kernel_size, check_volumes(in_channels, out_channels, self.volumes))
        check_words(topology, bias)
        self.kernel_size, self.channel_kernel_size = self._sizes(kernel_size), channel_kernel_size
        self.stride, self.dilation = self._sizes(stride), self._sizes(dilation)
        self.groups = 1
        self.topology: Topology = topology
        ends = (p, q) if self.transposed else (q, p)
        shape = (*ends, channel_kernel_size, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias_kind: Bias | None = bias
        if bias is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(q if bias == "scalar" else out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of the signal; biases start at zero."""
        fan_in = self.volumes[0] * self.channel_kernel_size * prod(self.kernel_size)
        if self.transposed:  # each output comes from one in so many of the kernel's elements
            fan_in = max(1, fan_in // prod(self.stride))
        nn.init.normal_(self.weight, std=fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _sizes(self, value: Size) -> tuple[int, ...]:
        sizes = (value,) * self.spatial_dims if isinstance(value, int) else tuple(value)
        if len(sizes) != self.spatial_dims:
            raise ShapeError(f"{type(self).__name__} has {self.spatial_dims} spatial axes, got {value}")
        return sizes

    def _check(self, u: Tensor) -> None:
        if u.dim() != self.spatial_dims + 2 or u.shape[1] != self.in_channels:
            raise ShapeError(
                f"{type(self).__name__} expects {_NAMES[self.spatial_dims]} with C = {self.in_channels}, "
                f"or the same without B, got {tuple(u.shape)}"
            )

    def extra_repr(self) -> str:
        p, q = self.volumes
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", channel_kernel_size={self.channel_kernel_size}, stride={self.stride}"
        text += f", topology={self.topology}, bias={self.bias_kind}"
        return text if (p, q) == (1, 1) else text + f", volumes={p}->{q}"


class _DeepPrismNd(_Volumes):
    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: Size = 3,
        *,
        channel_kernel_size: int = 3,
        stride: Size = 1,
        padding: Size | str | None = None,
        dilation: Size = 1,
        padding_mode: PaddingMode = "zeros",
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, channel_kernel_size, stride, dilation, bias,
                         topology, volumes, device, dtype)  # fmt: skip
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ShapeError(f"padding_mode {padding_mode!r} is not one of zeros, reflect, replicate, circular")
        self.padding_mode: PaddingMode = padding_mode
        self.padding, self._extra_padding = self._resolve(padding)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        *,
        channel_kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias = "scalar",
    ) -> Self:
        """The form with the geometry, device and dtype of `conv`; freshly initialised.

        A bias is kept only where `conv` has one, in the form `bias` names.

        Raises:
            ShapeError: `conv` is grouped, transposed or has another number of spatial axes.
        """
        if conv.transposed or conv.groups != 1 or len(conv.kernel_size) != cls.spatial_dims:
            raise ShapeError(f"{conv} is not an ungrouped {cls.spatial_dims}-D convolution; {cls.__name__} is")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            channel_kernel_size=channel_kernel_size,
            stride=conv.stride,
            padding=cast(Any, conv.padding),
            dilation=conv.dilation,
            padding_mode=conv.padding_mode,
            bias=bias if conv.bias is not None else None,
            topology=topology,
            volumes=volumes,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        return layer.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        u = input
        if u.dim() == self.spatial_dims + 1:
            return self.forward(u[None]).squeeze(0)
        self._check(u)
        if any(self._extra_padding):
            u = F.pad(u, self._extra_padding)
        return deep_prism_nd(
            u,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
            topology=self.topology,
        )

    def _resolve(self, padding: Size | str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Symmetric padding for the operator, and what "same" with an even kernel adds beside it."""
        none = (0,) * (2 * self.spatial_dims)
        total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        if padding is None:
            return tuple(k // 2 * d for k, d in zip(self.kernel_size, self.dilation, strict=True)), none
        if padding == "valid":
            return (0,) * self.spatial_dims, none
        if padding == "same":
            if set(self.stride) != {1}:
                raise ShapeError("padding='same' needs stride 1, as in torch's convolutions")
            if not any(t % 2 for t in total):
                return tuple(t // 2 for t in total), none
            if self.padding_mode != "zeros":
                raise ShapeError("padding='same' with an even kernel needs padding_mode='zeros'")
            return (0,) * self.spatial_dims, tuple(n for t in reversed(total) for n in (t // 2, t - t // 2))
        if isinstance(padding, str):
            raise ShapeError(f"padding {padding!r} is neither numbers, 'same' nor 'valid'")
        return self._sizes(padding), none

    def extra_repr(self) -> str:
        return super().extra_repr() + f", padding={self.padding}"


class DeepPrism1d(_DeepPrismNd):
    """DeepPrism of a sequence: one 2-D kernel over (C, L), 9 weights where a `Conv1d` has 3*C² (Eq. 3).

    Args, bias, volumes and topology as `DeepPrism`; one spatial axis.

    Shape: (B, C_in, L) or (C_in, L) -> C_out channels and the length of the `nn.Conv1d` with the same geometry.

    Example:
        >>> layer = DeepPrism1d(64)
        >>> layer(torch.zeros(2, 64, 11)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([2, 64, 11]), 10)
    """

    spatial_dims = 1


class DeepPrism3d(_DeepPrismNd):
    """DeepPrism of a video: one 4-D kernel over (C, T, H, W), 81 weights where a `Conv3d` has 27*C² (Eq. 3).

    Args, bias, volumes and topology as `DeepPrism`; three spatial axes, of which time comes first.

    Shape: (B, C_in, T, H, W) or (C_in, T, H, W) -> C_out channels and the size of the `nn.Conv3d` with the
    same geometry.

    Example:
        >>> layer = DeepPrism3d(64, padding=(0, 1, 1))
        >>> layer(torch.zeros(1, 64, 5, 8, 8)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([1, 64, 3, 8, 8]), 82)
    """

    spatial_dims = 3


class _DeepPrismTransposeNd(_Volumes):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: Size = 3,
        *,
        channel_kernel_size: int = 3,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        dilation: Size = 1,
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, channel_kernel_size, stride, dilation, bias,
                         topology, volumes, device, dtype)  # fmt: skip
        self.padding, self.output_padding = self._sizes(padding), self._sizes(output_padding)
        self.padding_mode = "zeros"

    @classmethod
    def from_conv(
        cls,
        conv: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d,
        *,
        channel_kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias = "scalar",
    ) -> Self:
        """The form with the geometry, device and dtype of the transposed `conv`; freshly initialised.

        Raises:
            ShapeError: `conv` is grouped, not transposed or has another number of spatial axes.
        """
        if not conv.transposed or conv.groups != 1 or len(conv.kernel_size) != cls.spatial_dims:
            raise ShapeError(f"{conv} is not an ungrouped transposed {cls.spatial_dims}-D convolution")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            channel_kernel_size=channel_kernel_size,
            stride=conv.stride,
            padding=cast(Any, conv.padding),
            output_padding=conv.output_padding,
            dilation=conv.dilation,
            bias=bias if conv.bias is not None else None,
            topology=topology,
            volumes=volumes,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        return layer.train(conv.training)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        u = input
        if u.dim() == self.spatial_dims + 1:
            return self.forward(u[None], output_size).squeeze(0)
        self._check(u)
        return deep_prism_transposed_nd(
            u,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding if output_size is None else self._missing(u, output_size),
            dilation=self.dilation,
            topology=self.topology,
        )

    def _missing(self, u: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives `output_size`, as torch's transposed convolutions take it."""
        wanted = tuple(output_size)[-self.spatial_dims :]
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                u.shape[2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        if len(wanted) != self.spatial_dims or any(
            not 0 <= w - n < s for w, n, s in zip(wanted, least, self.stride, strict=True)
        ):
            most = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
            raise ShapeError(f"output_size {tuple(output_size)} is not between {least} and {most}")
        return tuple(w - n for w, n in zip(wanted, least, strict=True))

    def extra_repr(self) -> str:
        return super().extra_repr() + f", padding={self.padding}, output_padding={self.output_padding}"


class DeepPrismTranspose1d(_DeepPrismTransposeNd):
    """The adjoint of `DeepPrism1d`, as `nn.ConvTranspose1d` is that of `nn.Conv1d`.

    Shape: (B, C_in, L) or (C_in, L) -> C_out channels and the length of the `nn.ConvTranspose1d` with the
    same geometry.
    """

    spatial_dims = 1


class DeepPrismTranspose2d(_DeepPrismTransposeNd):
    """The adjoint of `DeepPrism`, as `nn.ConvTranspose2d` is that of `nn.Conv2d`.

    Shape: (B, C_in, H, W) or (C_in, H, W) -> C_out channels and the size of the `nn.ConvTranspose2d` with
    the same geometry.

    Example:
        >>> layer = DeepPrismTranspose2d(64, kernel_size=4, stride=2, padding=1)
        >>> layer(torch.zeros(1, 64, 8, 8)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([1, 64, 16, 16]), 49)
    """

    spatial_dims = 2


class DeepPrismTranspose3d(_DeepPrismTransposeNd):
    """The adjoint of `DeepPrism3d`, as `nn.ConvTranspose3d` is that of `nn.Conv3d`.

    Shape: (B, C_in, T, H, W) or (C_in, T, H, W) -> C_out channels and the size of the `nn.ConvTranspose3d`
    with the same geometry.
    """

    spatial_dims = 3
