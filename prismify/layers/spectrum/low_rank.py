"""Low rank: C to `rank` channels and back."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from ..own import shipped_operator
from .shapes import InPlace, down_and_up, drawn, fan, whole


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
        rank = whole(rank, "rank", most=min(fan(layer)))
        made.down, made.up = down_and_up(layer, rank)
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
