"""The transposed forms of DeepPrism: its adjoints over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ShapeError
from ..kernels import Topology, deep_prism_transposed_nd
from .volumetric import Bias, Size, Volumetric


class _DeepPrismTransposeNd(Volumetric):
    transposed = True
    also_from_conv = ("output_padding",)

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
        >>> import torch
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
