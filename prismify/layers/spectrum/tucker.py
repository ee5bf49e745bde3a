"""Tucker: C to `rank` channels, a small convolution among those, and back."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..own import shipped_operator
from .shapes import InPlace, convolution, down_and_up, drawn, has_bias, is_transposed, pointwise, whole, widths


@shipped_operator
class Tucker(InPlace):
    """A pointwise convolution to r channels, the layer's own kernel from r to r, and a pointwise one back.

    r*(C + C') + 9*r² weights where there are 9*C*C': the Tucker-2 decomposition (Kim et al., 2016, arXiv 1511.06530). A
    layer that looks at one position has no kernel between: it becomes two, as by `LowRank`.
    """

    down: Any
    core: Any
    up: Any

    @classmethod
    def from_layer(cls, layer: nn.Module, rank: int = 8) -> Self:
        """In the place of a convolution or a linear layer, freshly initialised.

        Args:
            rank: from 1 to the larger width; on the side of the smaller one no more than that. It can express the
                layer where it reaches the larger.

        Raises:
            ShapeError: `layer` is neither, or the rank is none.
        """
        made = cls(layer)
        channels_in, channels_out = widths(layer)
        rank = whole(rank, "rank", most=max(channels_in, channels_out))
        inside, outside = min(rank, channels_in), min(rank, channels_out)
        if isinstance(layer, _ConvNd) and not _sees_one_position(layer):
            made.down = pointwise(layer, channels_in, inside, bias=False)
            made.core = convolution(layer, inside, outside, bias=False)
            made.up = pointwise(layer, outside, channels_out, bias=has_bias(layer))
        else:
            made.core = nn.Identity()
            made.down, made.up = down_and_up(layer, min(inside, outside))
        made.reset_parameters()
        return made.train(layer.training)

    @property
    def rank(self) -> int:
        """Channels between, on the wider side."""
        return max(widths(self.down)[1], widths(self.up)[0])

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of the signal; the bias starts at zero."""
        for part in (self.down, self.core, self.up):
            if not isinstance(part, nn.Identity):
                drawn(part)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.up(self.core(self.down(input)))
        return result

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


def _sees_one_position(layer: _ConvNd) -> bool:
    """Whether its kernel has one place, which a stride or an edge may still move."""
    return set(layer.kernel_size) == {1} and not is_transposed(layer)
