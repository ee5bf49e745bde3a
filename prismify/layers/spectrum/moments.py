"""Second moments of what a layer reads: all that a closed-form warm start needs to know of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import ShapeError
from .shapes import fan, is_transposed, widths

#: Features of one output, at most: the square of it is what a layer's moments take, in float64 (0.6 GiB).
MOST_FEATURES = 9216
_PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@dataclass
class Moments:
    """Means and second moments of a layer's inputs, and the map that the layer makes of them.

    A feature is one number that an output depends on: a channel at one tap of the kernel, channels first. Of a
    transposed convolution a feature is a channel, and an output one number of the patch that a position makes.

    Args:
        weight: the layer's map, shape (features, outputs), float64.
        bias: of an output channel; None where it has none.
        count: positions seen.
        total, products: sums over them of the features, shape (F,), and of their products, (F, F); float64.
    """

    weight: Tensor
    bias: Tensor | None
    count: int = 0
    total: Tensor = field(init=False)
    products: Tensor = field(init=False)

    def __post_init__(self) -> None:
        features = self.weight.shape[0]
        self.total = self.weight.new_zeros(features)
        self.products = self.weight.new_zeros(features, features)

    @classmethod
    def of(cls, layer: nn.Module) -> Moments:
        """Those of a convolution or a linear layer, nothing seen yet.

        Raises:
            ShapeError: it is neither, or one output depends on too many numbers.
        """
        widths(layer)
        if (features := fan(layer)[0]) > MOST_FEATURES:
            raise ShapeError(f"one output depends on {features:,} numbers, whose moments are too many to keep")
        bias = layer._parameters.get("bias")
        return cls(dense_map(layer), None if bias is None else bias.detach().double().cpu())

    def add(self, layer: nn.Module, input: Tensor, positions: int) -> None:
        """Take what a layer reads into account, at most so many positions of it, spread evenly."""
        rows = features_of(layer, input, positions).double().cpu()
        self.count += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """Of the features, shape (F,)."""
        return self.total / self.count

    def second(self, *, centred: bool) -> Tensor:
        """The features' covariance, or their second moment where not centred, shape (F, F)."""
        second = self.products / self.count
        return second - torch.outer(self.mean, self.mean) if centred else second

    def unexplained(self, fitted: Tensor) -> float:
        """The share of the outputs' variance that a map of the same shape leaves unexplained."""
        covariance, missing = self.second(centred=True), self.weight - fitted
        whole = (self.weight * (covariance @ self.weight)).sum()
        return float((missing * (covariance @ missing)).sum() / whole)


def dense_map(layer: nn.Module) -> Tensor:
    """What a layer multiplies its features by, shape (features, outputs), float64."""
    parameter = layer._parameters["weight"]
    assert parameter is not None
    weight = parameter.detach().double().cpu()
    if not isinstance(layer, _ConvNd):
        return weight.T.contiguous() if isinstance(layer, nn.Linear) else weight.clone()
    return weight.flatten(1) if layer.transposed else weight.flatten(1).T.contiguous()


def features_of(layer: nn.Module, input: Tensor, positions: int) -> Tensor:
    """What single outputs of a layer depend on, shape (N, features), N at most about `positions`, spread evenly."""
    x = input.detach()
    if not isinstance(layer, _ConvNd):
        return _spread(x.reshape(-1, x.shape[-1]), positions)
    axes = len(layer.kernel_size)
    x = x[None] if x.dim() == axes + 1 else x
    if is_transposed(layer):
        return _spread(x.movedim(1, -1).reshape(-1, x.shape[1]), positions)
    x = F.pad(x, _sides(layer), mode=_PADDING[layer.padding_mode])
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        x = x.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    # (B, C, *out, *kernel): a view; only the positions that are taken are copied.
    places = x.movedim(1, 1 + axes)
    shape = places.shape[: 1 + axes]
    chosen = torch.arange(0, prod(shape), max(1, prod(shape) // positions), device=x.device)
    where = torch.unravel_index(chosen, shape)
    return places[where].flatten(1)


def _spread(rows: Tensor, positions: int) -> Tensor:
    return rows[:: max(1, len(rows) // positions)]


def _sides(layer: Any) -> list[int]:
    """How much is padded, as `F.pad` takes it."""
    if isinstance(layer.padding, str):
        return list(layer._reversed_padding_repeated_twice)
    return [n for pad in reversed(layer.padding) for n in (pad, pad)]


@contextmanager
def watched(layers: Mapping[str, nn.Module], positions: int) -> Iterator[dict[str, Moments]]:
    """Collect the moments of layers while their model runs: name -> moments.

    Args:
        positions: of each call of a layer, at most.
    """
    found = {name: Moments.of(layer) for name, layer in layers.items()}

    def note(name: str) -> Any:
        return lambda layer, given: found[name].add(layer, given[0], positions)

    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
