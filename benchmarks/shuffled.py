"""An operator for `gap.py`: the paper's behind a fixed shuffle of the channels, so that it slides over distant ones."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

import prismify
from prismify.layers import Operator, build_operator


@prismify.register_operator
class Shuffled(nn.Module):
    """A DeepPrism whose input channels come in an order drawn once from `seed`."""

    order: Tensor

    def __init__(self, inner: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("order", order)

    @classmethod
    def from_layer(cls, layer: nn.Module, seed: int = 0) -> Self:
        inner = build_operator(Operator("DeepPrism"), layer)
        order = torch.randperm(int(layer.in_channels), generator=torch.Generator().manual_seed(seed))  # type: ignore[call-overload]
        return cls(inner, order)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x.index_select(1, self.order))
        return y
