"""Group: C channels in groups that do not see one another; and depthwise separable, the groups of one channel."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import ShapeError
from ..own import shipped_operator
from .shapes import InPlace, convolution, fan, has_bias, like, pointwise, whole, widths


@shipped_operator
class Grouped(InPlace):
    """A convolution in groups, 9*C*C'/groups weights; of a linear layer, blocks along the diagonal."""

    inner: Any
    block_count: int

    @classmethod
    def from_layer(cls, layer: nn.Module, groups: int = 2) -> Self:
        """In the place of a convolution or a linear layer, freshly initialised.

        Raises:
            ShapeError: `layer` is neither, or the groups do not divide both widths.
        """
        made = cls(layer)
        channels_in, channels_out = widths(layer)
        groups = whole(groups, "groups")
        if channels_in % groups or channels_out % groups:
            raise ShapeError(f"{channels_in} -> {channels_out} channels do not split into {groups} groups")
        if isinstance(layer, _ConvNd):
            made.inner = convolution(layer, channels_in, channels_out, bias=has_bias(layer), groups=groups)
        else:
            made.inner = _Blocks(layer, groups)
        nn.init.normal_(made.inner.weight, std=(fan(layer)[0] / groups) ** -0.5)
        if made.inner.bias is not None:
            nn.init.zeros_(made.inner.bias)
        made.block_count = groups
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.inner(input)
        return result

    def extra_repr(self) -> str:
        return f"groups={self.block_count}"


class _Blocks(nn.Module):
    """A linear layer whose weight is blocks along the diagonal: (groups, out, in)."""

    def __init__(self, layer: nn.Module, groups: int) -> None:
        super().__init__()
        features_in, features_out = widths(layer)
        self.weight = nn.Parameter(torch.empty(groups, features_out // groups, features_in // groups, **like(layer)))
        self.bias = nn.Parameter(torch.empty(features_out, **like(layer))) if has_bias(layer) else None

    def forward(self, input: Tensor) -> Tensor:
        groups = torch.unflatten(input, -1, (self.weight.shape[0], -1))
        y = torch.einsum("...gi,goi->...go", groups, self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias


@shipped_operator
class Separable(InPlace):
    """A depthwise convolution and a pointwise one, 9*C + C*C' weights (Chollet, 2017; Howard et al., 2017)."""

    depthwise: Any
    pointwise: Any

    @classmethod
    def from_layer(cls, layer: nn.Module) -> Self:
        """In the place of a convolution, freshly initialised.

        Raises:
            ShapeError: `layer` is none, or looks at one position: there is nothing to separate.
        """
        made = cls(layer)
        if not isinstance(layer, _ConvNd) or set(layer.kernel_size) == {1}:
            raise ShapeError(f"a {type(layer).__name__} of one position has no depthwise part")
        channels_in, channels_out = widths(layer)
        made.depthwise = convolution(layer, channels_in, channels_in, bias=False, groups=channels_in)
        made.pointwise = pointwise(layer, channels_in, channels_out, bias=has_bias(layer))
        nn.init.normal_(made.depthwise.weight, std=(fan(layer)[0] / channels_in) ** -0.5)
        nn.init.normal_(made.pointwise.weight, std=channels_in**-0.5)
        if made.pointwise.bias is not None:
            nn.init.zeros_(made.pointwise.bias)
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.depthwise(input))
        return result
