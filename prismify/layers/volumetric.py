"""What every DeepPrism is made of, forward and transposed, over one, two or three spatial axes."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import ShapeError
from ..kernels import PADDING_MODES, PaddingMode, Topology, deep_prism_nd
from .dilated import apart, check_channel_dilation, together
from .formats import keeping_layout
from .volumes import check_channel_kernel, check_volumes, check_words, volumes_of

Bias = Literal["scalar", "channel"]
Size = int | tuple[int, ...]
_NAMES = {1: "(B, C, L)", 2: "(B, C, H, W)", 3: "(B, C, T, H, W)"}


class Volumetric(nn.Module):
    """What all forms share: geometry, weight and bias. The weight is (volumes, volumes, K_C, *kernel_size)."""

    spatial_dims: ClassVar[int]
    transposed: ClassVar[bool] = False
    #: What else a form takes over from the convolution in whose place it comes.
    also_from_conv: ClassVar[tuple[str, ...]]

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

    @classmethod
    def from_conv(
        cls,
        conv: nn.Module,
        *,
        channel_kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias | None = "scalar",
        **more: Any,
    ) -> Self:
        """The form with the geometry, device, dtype and mode of the convolution `conv`; freshly initialised.

        A bias is kept only where `conv` has one, in the form `bias` names; `more` is what a form knows besides.

        Raises:
            ShapeError: `conv` is grouped, of the other direction or has another number of spatial axes.
        """
        kind = (cls.transposed, cls.spatial_dims, 1)
        if not isinstance(conv, _ConvNd) or (conv.transposed, len(conv.kernel_size), conv.groups) != kind:
            form = "transposed " * cls.transposed + f"{cls.spatial_dims}-D"
            raise ShapeError(f"{conv} is not an ungrouped {form} convolution, whose place {cls.__name__} takes")
        make: Any = cls  # the forms differ in what else they take
        layer: Self = make(
            conv.in_channels,
            conv.out_channels,
            kernel_size=conv.kernel_size,
            channel_kernel_size=channel_kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            bias=bias if conv.bias is not None else None,
            topology=topology,
            volumes=volumes,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            **{name: getattr(conv, name) for name in cls.also_from_conv},
            **more,
        )
        return layer.train(conv.training)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return super()._apply(keeping_layout(fn), recurse)  # type: ignore[no-any-return, no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Layers pickled before they told a string for their padding, or an output padding.
        state.setdefault("_padding", state.get("padding"))
        state.setdefault("output_padding", (0,) * self.spatial_dims)
        super().__setstate__(state)  # type: ignore[no-untyped-call]

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


class DeepPrismNd(Volumetric):
    """The forward forms: `DeepPrism` and its like for sequences and videos, which say what each argument means."""

    also_from_conv = ("padding_mode",)
    #: Of layers pickled before they had one.
    channel_dilation = 1

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
        channel_dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, channel_kernel_size, stride, dilation, bias,
                         topology, volumes, device, dtype)  # fmt: skip
        if padding_mode not in PADDING_MODES:
            raise ShapeError(f"padding_mode {padding_mode!r} is not one of {', '.join(PADDING_MODES)}")
        check_channel_dilation(channel_dilation, in_channels // self.volumes[0], channel_kernel_size)
        self.channel_dilation = channel_dilation
        self.padding_mode: PaddingMode = padding_mode
        self._padding, self._extra_padding = self._resolve(padding)
        # Callers of a replaced convolution read what it was given: "same" stays "same".
        self.padding: tuple[int, ...] | str = padding if isinstance(padding, str) else self._padding
        self.output_padding = (0,) * self.spatial_dims

    def forward(self, input: Tensor) -> Tensor:
        u = input
        if u.dim() == self.spatial_dims + 1:
            return self.forward(u[None]).squeeze(0)
        self._check(u)
        if any(self._extra_padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            u = F.pad(u, self._extra_padding, mode=mode)
        if self.channel_dilation == 1:
            return self._operate(u, self.bias)
        bias = self.bias if self.bias_kind == "scalar" else None
        p, q = self.volumes
        y = self._operate(apart(u, p, self.channel_dilation), bias)
        y = together(y, q, self.channel_dilation)
        return y if self.bias is bias else y + self.bias.reshape(-1, *(1,) * self.spatial_dims)

    def _operate(self, u: Tensor, bias: Tensor | None) -> Tensor:
        return deep_prism_nd(
            u,
            self.weight,
            bias,
            stride=self.stride,
            padding=self._padding,
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
            return (0,) * self.spatial_dims, tuple(n for t in reversed(total) for n in (t // 2, t - t // 2))
        if isinstance(padding, str):
            raise ShapeError(f"padding {padding!r} is neither numbers, 'same' nor 'valid'")
        return self._sizes(padding), none

    def extra_repr(self) -> str:
        text = super().extra_repr() + f", padding={self.padding}"
        return text if self.channel_dilation == 1 else f"{text}, channel_dilation={self.channel_dilation}"
