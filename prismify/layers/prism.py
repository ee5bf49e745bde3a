"""Prism: a 1-D convolution along the channel axis, the same weights at every position (Eq. 1)."""

from __future__ import annotations

from typing import Any, Self

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
        dim: the channel axis: -1 for tokens (..., C), 1 for feature maps (B, C, ...) and (C, ...).
        spatial_dims: with `dim=1`, how many axes follow the channels: 1, 2 or 3.
        interleave: each output volume is cut into this many runs, and the volumes' runs are dealt out in
            turn: with one run a head, q, k and v lie head by head, as fused projections often have them.
        bias: "scalar" (one number a volume), "channel" (one a channel), or None.
        topology: padding of the channel axis: "zero", "replicate" or "circular" (Table 1).
        volumes: (P, Q); None takes the greatest common divisor of the widths as depth.

    Shape: tokens (..., C_in) -> (..., C_out), or feature maps (B, C_in, ...) -> (B, C_out, ...).

    Raises:
        ShapeError: the volumes do not fit the widths, the kernel is even or too large, or the runs do not
            come out even.

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
        spatial_dims: int = 2,
        interleave: int = 1,
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
        depth = check_volumes(in_channels, out_channels, self.volumes)
        check_channel_kernel(kernel_size, depth)
        if interleave < 1 or depth % interleave:
            raise ShapeError(f"volumes of {depth} channels do not split into {interleave} runs")
        # Both vocabularies: callers of a replaced Linear ask for features, of a Conv2d for channels.
        self.in_channels = self.in_features = in_channels
        self.out_channels = self.out_features = out_channels
        self.channel_kernel_size = kernel_size
        self.dim = dim
        self.spatial_dims = spatial_dims
        # In the place of a pointwise convolution, its geometry; K itself in that of a linear layer, which has none.
        self.kernel_size: int | tuple[int, ...] = kernel_size
        if dim == 1:
            self._take_geometry(None)
        self.interleave = interleave
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
        bias: Bias | None = "scalar",
        interleave: int = 1,
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
            interleave=interleave,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        return layer.train(linear.training)

    @classmethod
    def from_conv(
        cls,
        conv: PointwiseConv,
        *,
        kernel_size: int = 3,
        topology: Topology = "zero",
        volumes: tuple[int, int] | None = None,
        bias: Bias | None = "scalar",
        interleave: int = 1,
    ) -> Self:
        """The Prism with the widths, device and dtype of a pointwise `conv` (1-D, 2-D or 3-D); freshly initialised.

        Raises:
            ShapeError: `conv` is not of kernel size 1 with stride 1, no padding and one group.
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
            spatial_dims=len(conv.kernel_size),
            interleave=interleave,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        layer._take_geometry(conv)
        return layer.train(conv.training)

    #: The name that goes with `DeepPrism.from_conv2d`.
    from_conv2d = from_conv

    def _take_geometry(self, conv: nn.Module | None) -> None:
        """What callers of a convolution read, as `conv` has it, or as any pointwise one does."""
        ones, zeros = (1,) * self.spatial_dims, (0,) * self.spatial_dims
        for name, value in {"kernel_size": ones, "stride": ones, "padding": zeros, "dilation": ones, "groups": 1,
                            "padding_mode": "zeros", "output_padding": zeros, "transposed": False}.items():  # fmt: skip
            setattr(self, name, getattr(conv, name, value))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "channel_kernel_size" not in state:  # pickled before it told a convolution's geometry
            self.channel_kernel_size = state["kernel_size"]
            if self.dim == 1:
                self._take_geometry(None)

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of the signal (fan-in P*K); biases start at zero."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        u = input
        # A pointwise convolution also takes an input without a batch; there the channels come first.
        if self.dim == 1 and u.dim() == self.spatial_dims + 1:
            return self.forward(u[None]).squeeze(0)
        if u.shape[self.dim] != self.in_channels:
            raise ShapeError(f"Prism expects {self.in_channels} channels on axis {self.dim}, got {tuple(u.shape)}")
        y = prism(u, self.weight, self.bias, dim=self.dim, topology=self.topology)
        if self.interleave == 1:
            return y
        runs = torch.unflatten(y, self.dim, (self.volumes[1], self.interleave, -1))
        return runs.transpose(1, 2).flatten(1, 3) if self.dim == 1 else runs.transpose(-3, -2).flatten(-3)

    def extra_repr(self) -> str:
        p, q = self.volumes
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.channel_kernel_size}, dim={self.dim}"
        text += f", topology={self.topology}, bias={self.bias_kind}"
        text += f", interleave={self.interleave}" if self.interleave > 1 else ""
        return text if (p, q) == (1, 1) else text + f", volumes={p}->{q}"


PointwiseConv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def is_pointwise(conv: nn.Module) -> bool:
    """Whether a module is an ungrouped `Conv1d`, `Conv2d` or `Conv3d` of kernel size 1 with stride 1 and no padding."""
    return (
        isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        and set(conv.kernel_size) == {1}
        and set(conv.stride) == {1}
        and (isinstance(conv.padding, str) or set(conv.padding) == {0})
        and conv.groups == 1
    )
