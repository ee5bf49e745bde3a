"""PrismConv: a spatial filter and a channel filter in one (Eq. 2), in its two forms."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import PaddingMode, Topology, deep_prism_nd
from .deep_prism import Bias, DeepPrism
from .volumes import check_channel_kernel

Form = Literal["composition", "sum"]


class PrismConv(nn.Module):
    """A K×K spatial filter shared by every channel and a Prism: K*K + K weights (Eq. 2).

    Two forms: "composition" applies one filter after the other, which is the DeepPrism with the kernel
    `channel[h] * spatial[i, j]`; "sum" is the paper's direct sum, `channel[h] + spatial[i, j]`.

    Args:
        channels: C, in and out.
        kernel_size: of the two spatial axes.
        form: "composition" (Eq. 2, the default) or "sum" (the text beneath it).
        others: as in `DeepPrism`.

    Shape: (B, C, H, W) or (C, H, W) -> C channels, spatial size as for `nn.Conv2d`.

    Example:
        >>> sum(p.numel() for p in PrismConv(64).parameters())
        13
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        form: Form = "composition",
        channel_kernel_size: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str | None = None,
        dilation: int | tuple[int, int] = 1,
        padding_mode: PaddingMode = "zeros",
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if form not in ("composition", "sum"):
            raise ShapeError(f"form {form!r} is neither 'composition' nor 'sum'")
        check_channel_kernel(channel_kernel_size, channels)
        # The geometry is DeepPrism's own, resolved once there; its weight is never made.
        geometry = DeepPrism(
            channels,
            kernel_size=kernel_size,
            channel_kernel_size=channel_kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            padding_mode=padding_mode,
            bias=None,
            topology=topology,
            device="meta",
        )
        if any(geometry._extra_padding):
            raise ShapeError("padding='same' with an even kernel is not offered by PrismConv; use DeepPrism")
        self.in_channels = self.out_channels = channels
        self.form: Form = form
        self.kernel_size, self.channel_kernel_size = geometry.kernel_size, channel_kernel_size
        self.stride, self.padding, self.dilation = geometry.stride, geometry.padding, geometry.dilation
        self._padding = geometry._padding
        self.groups, self.transposed, self.output_padding = 1, False, geometry.output_padding
        self.padding_mode, self.topology = geometry.padding_mode, geometry.topology
        self.spatial_weight = nn.Parameter(torch.empty(self.kernel_size, device=device, dtype=dtype))
        self.channel_weight = nn.Parameter(torch.empty(channel_kernel_size, device=device, dtype=dtype))
        self.bias_kind: Bias | None = bias
        if bias is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(1 if bias == "scalar" else channels, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        *,
        form: Form = "composition",
        channel_kernel_size: int = 3,
        topology: Topology = "zero",
        bias: Bias | None = "scalar",
    ) -> Self:
        """The PrismConv with the geometry, device and dtype of a C->C `conv`; freshly initialised.

        Raises:
            ShapeError: `conv` is grouped, or its two widths differ.
        """
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or conv.in_channels != conv.out_channels:
            raise ShapeError(f"{conv} is not an ungrouped C->C Conv2d; PrismConv cannot take its place")
        layer = cls(
            conv.in_channels,
            cast(tuple[int, int], conv.kernel_size),
            form=form,
            channel_kernel_size=channel_kernel_size,
            stride=cast(tuple[int, int], conv.stride),
            padding=cast("tuple[int, int] | str", conv.padding),
            dilation=cast(tuple[int, int], conv.dilation),
            padding_mode=conv.padding_mode,
            bias=bias if conv.bias is not None else None,
            topology=topology,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weights whose 3-D kernel keeps the variance of the signal; biases start at zero."""
        spatial, channel = self.spatial_weight.numel(), self.channel_weight.numel()
        if self.form == "composition":
            nn.init.normal_(self.spatial_weight, std=spatial**-0.5)
            nn.init.normal_(self.channel_weight, std=channel**-0.5)
        else:
            std = (2 * spatial * channel) ** -0.5
            nn.init.normal_(self.spatial_weight, std=std)
            nn.init.normal_(self.channel_weight, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Layers pickled before they told all of a convolution's geometry.
        for name, value in (("_padding", state["padding"]), ("groups", 1), ("transposed", False)):
            state.setdefault(name, value)
        state.setdefault("output_padding", (0, 0))
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def kernel(self) -> Tensor:
        """The equal DeepPrism's kernel, shape (K_C, K_H, K_W)."""
        channel = self.channel_weight[:, None, None]
        return channel * self.spatial_weight if self.form == "composition" else channel + self.spatial_weight

    def forward(self, input: Tensor) -> Tensor:
        u = input
        if u.dim() == 3:
            return self.forward(u[None]).squeeze(0)
        if u.dim() != 4 or u.shape[1] != self.in_channels:
            raise ShapeError(f"PrismConv expects (B, {self.in_channels}, H, W), got {tuple(u.shape)}")
        return deep_prism_nd(
            u,
            self.kernel()[None, None],
            self.bias,
            stride=self.stride,
            padding=self._padding,
            dilation=self.dilation,
            padding_mode=self.padding_mode,
            topology=self.topology,
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, kernel_size={self.kernel_size}, form={self.form}"
        return text + f", stride={self.stride}, padding={self.padding}, topology={self.topology}"
