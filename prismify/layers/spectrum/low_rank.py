"""Low rank: C to `rank` channels and back."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..own import shipped_operator
from .shapes import InPlace, convolution, drawn, fan, has_bias, is_transposed, linear, pointwise, whole, widths


@shipped_operator
class LowRank(InPlace):
    """A convolution from C to `rank` channels and a pointwise one to C', r*(9*C + C') weights where there are 9*C*C'.

    A linear layer becomes two. A transposed convolution goes the other way: pointwise first. It can express the layer
    where `rank` reaches the rank of its weight.
    """

    down: Any
    up: Any

    @classmethod
    def from_layer(cls, layer: nn.Module, rank: int = 8) -> Self:
        """In the place of a convolution or a linear layer, freshly initialised.

        Args:
            rank: from 1 to the smaller of what one output depends on, and of what one position makes.

        Raises:
            ShapeError: `layer` is neither, or the rank is none.
        """
        made = cls(layer)
        channels_in, channels_out = widths(layer)
        rank = whole(rank, "rank", most=min(fan(layer)))
        bias = has_bias(layer)
        if not isinstance(layer, _ConvNd):
            made.down = linear(layer, channels_in, rank, bias=False)
            made.up = linear(layer, rank, channels_out, bias=bias)
        elif is_transposed(layer):
            made.down = pointwise(layer, channels_in, rank, bias=False)
            made.up = convolution(layer, rank, channels_out, bias=bias)
        else:
            made.down = convolution(layer, channels_in, rank, bias=False)
            made.up = pointwise(layer, rank, channels_out, bias=bias)
        made.reset_parameters()
        return made.train(layer.training)

    @property
    def rank(self) -> int:
        """Channels between the two."""
        return int(getattr(self.down, "out_channels", 0) or self.down.out_features)

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of the signal; the bias starts at zero."""
        for part in (self.down, self.up):
            drawn(part)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.up(self.down(input))
        return result

    def extra_repr(self) -> str:
        return f"rank={self.rank}"
