"""Prism: a 1-D convolution along the channel axis, the same weights at every position (Eq. 1)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import Topology, prism
from .deep_prism import Bias
from .volumes import check_channel_kernel, check_volumes, check_words, volumes_of


class Prism(nn.Module):
    """1-D convolution along channels: K weights where a projection has C² (Eq. 1).

    The projections of PrismAttn are Prisms (Eq. 5). With P input and Q output volumes it has Q*P*K weights.

    Args:
        in_channels: C_in.
        out_channels: C_out; `in_channels` when left out.
        kernel_size: K; odd.
        dim: the channel axis: -1 for tokens (..., C), 1 for feature maps (B, C, H, W) and (C, H, W).
        bias: "scalar" (one number a volume), "channel" (one a channel), or None.
        topology: padding of the channel axis: "zero", "replicate" or "circular" (Table 1).
        volumes: (P, Q); None takes the greatest common divisor of the widths as depth.

    Shape: tokens (..., C_in) -> (..., C_out), or feature maps (B, C_in, H, W) -> (B, C_out, H, W).

    Raises:
        ShapeError: the volumes do not fit the widths, or the kernel is even or too large.

    Example:
        >>> layer = Prism(64)
        >>> layer(torch.zeros(2, 10, 64)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([2, 10, 64]), 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        *,
        dim: int = -1,
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dim not in (-1, 1):
            raise ShapeError(f"the channel axis of a Prism is -1 (tokens) or 1 (feature maps), not {dim}")
        out_channels = in_channels if out_channels is None else out_channels
        p, q = volumes_of(in_channels, out_channels) if volumes is None else volumes
        self.volumes = (p, q)
        check_words(topology, bias)
        check_channel_kernel(kernel_size, check_volumes(in_channels, out_channels, self.volumes))
        # Both vocabularies: callers of a replaced Linear ask for features, of a Conv2d for channels.
        self.in_channels = self.in_features = in_channels
        self.out_channels = self.out_features = out_channels
        self.kernel_size = kernel_size
        self.dim = dim
        self.topology: Topology = topology
        self.weight = nn.Parameter(torch.empty(q, p, kernel_size, device=device, dtype=dtype))
        self.bias_kind: Bias | None = bias
        if bias is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(q if bias == "scalar" else out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias = "scalar",
    ) -> Self:
        """The Prism with the widths, device and dtype of `linear`; freshly initialised.

        A bias is kept only where `linear` has one, in the form `bias` names.
        """
        layer = cls(
            linear.in_features,
            linear.out_features,
            kernel_size,
            bias=bias if linear.bias is not None else None,
            topology=topology,
            volumes=volumes,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        return layer.train(linear.training)

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        *,
        kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias = "scalar",
    ) -> Self:
        """The Prism with the widths, device and dtype of a 1x1 `conv`; freshly initialised.

        Raises:
            ShapeError: `conv` is not 1x1 with stride 1, no padding and one group.
        """
        if not is_pointwise(conv):
            raise ShapeError(f"{conv} is not a pointwise convolution; DeepPrism takes its place, not Prism")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            kernel_size,
            dim=1,
            bias=bias if conv.bias is not None else None,
            topology=topology,
            volumes=volumes,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of the signal (fan-in P*K); biases start at zero."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        u = input
        # A pointwise nn.Conv2d also takes (C, H, W); there the channels come first.
        if self.dim == 1 and u.dim() == 3:
            return self.forward(u[None]).squeeze(0)
        if u.shape[self.dim] != self.in_channels:
            raise ShapeError(f"Prism expects {self.in_channels} channels on axis {self.dim}, got {tuple(u.shape)}")
        return prism(u, self.weight, self.bias, dim=self.dim, topology=self.topology)

    def extra_repr(self) -> str:
        p, q = self.volumes
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, dim={self.dim}"
        text += f", topology={self.topology}, bias={self.bias_kind}"
        return text if (p, q) == (1, 1) else text + f", volumes={p}->{q}"


def is_pointwise(conv: nn.Module) -> bool:
    """Whether a module is an ungrouped 1x1 `Conv2d` with stride 1 and no padding."""
    return (
        isinstance(conv, nn.Conv2d)
        and tuple(conv.kernel_size) == (1, 1)
        and tuple(conv.stride) == (1, 1)
        and conv.padding in ((0, 0), "same", "valid")
        and conv.groups == 1
    )
