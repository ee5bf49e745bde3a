"""Operators around and beside others: a gain and a bias for each channel, and sums."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...errors import PlanError, ShapeError
from ...validation import build
from ..own import shipped_operator
from ..prism_conv import PrismConv
from .shapes import InPlace, has_bias, like


@shipped_operator
class Gained(InPlace):
    """An operator with a gain for each channel behind it, and a bias for each where the layer has one."""

    inner: nn.Module
    gain: nn.Parameter
    bias: nn.Parameter | None

    @classmethod
    def from_layer(cls, layer: nn.Module, operator: Mapping[str, Any]) -> Self:
        """In the place of a layer, freshly initialised; the gains are one.

        Args:
            operator: as a plan writes it, {"type": "DeepPrism", ...}.

        Raises:
            ShapeError: there is no such operator, or it cannot take the place of `layer`.
        """
        made = cls(layer)
        made.inner = _without_bias(operator, layer)
        made.gain = nn.Parameter(torch.ones(made.out_channels, **like(layer)))
        made.bias = nn.Parameter(torch.zeros(made.out_channels, **like(layer))) if has_bias(layer) else None
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.inner(input) * self._per_channel(self.gain)
        return y if self.bias is None else y + self._per_channel(self.bias)


@shipped_operator
class Sum(InPlace):
    """The sum of operators on the same input, such as low rank and DeepPrism, and a bias for each channel."""

    parts: nn.ModuleList
    bias: nn.Parameter | None

    @classmethod
    def from_layer(cls, layer: nn.Module, operators: Sequence[Mapping[str, Any]]) -> Self:
        """In the place of a layer, freshly initialised so that the sum keeps the variance of the signal.

        Args:
            operators: two or more, as a plan writes them.

        Raises:
            ShapeError: there are fewer, or one of them is none or cannot take the place of `layer`.
        """
        if not isinstance(operators, (list, tuple)) or len(operators) < 2:
            raise ShapeError("a Sum has two operators or more")
        made = cls(layer)
        made.parts = nn.ModuleList(_without_bias(operator, layer) for operator in operators)
        with torch.no_grad():
            for part in made.parts:
                last_weight(part).mul_(len(operators) ** -0.5)
        made.bias = nn.Parameter(torch.zeros(made.out_channels, **like(layer))) if has_bias(layer) else None
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.parts[0](input)
        for part in self.parts[1:]:
            y = y + part(input)
        return y if self.bias is None else y + self._per_channel(self.bias)


def last_weight(operator: nn.Module) -> Tensor:
    """The weight that an operator's output is proportional to."""
    for name in ("up", "pointwise", "inner"):
        part = getattr(operator, name, None)
        if isinstance(part, nn.Module):
            return last_weight(part)
    composed = isinstance(operator, PrismConv) and operator.form == "composition"
    weight = getattr(operator, "channel_weight" if composed else "weight", None)
    if not isinstance(weight, Tensor):
        raise ShapeError(f"a {type(operator).__name__} is no linear operator of one last weight")
    return weight


def _without_bias(operator: Mapping[str, Any], layer: nn.Module) -> nn.Module:
    """An operator that a plan describes, in the place of a layer whose bias is another's to add.

    Raises:
        ShapeError: there is no such operator, or it cannot take the place of `layer`.
    """
    from ..operator import Operator, build_operator

    if not isinstance(operator, Mapping):
        raise ShapeError(f"{operator!r:.60} is no operator: write {{type: DeepPrism}}")
    try:
        described = build(Operator, dict(operator), "operator")
    except PlanError as error:
        raise ShapeError(str(error)) from error
    bare = copy.copy(layer)
    bare._parameters = {**layer._parameters, "bias": None}
    return build_operator(described, bare)
