"""Which channels to keep: one after the other, each the one that takes most from the error of what is read of them.

What a layer makes of the channels that are left is its least squares from those (orthogonal least squares, Chen et al.
1991, here with several layers that read the same channels at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .moments import Moments, dense_map
from .shapes import fan, has_bias, is_transposed
from .shapes import widths as widths_of

#: Features of a layer, at most, whose taps are told apart; each choice takes the square of it.
_MOST_FEATURES = 2304
#: Of the features' mean variance; what varies less is told by others, but for rounding.
_TOLD = 1e-8


@dataclass
class Reading:
    """What a layer reads of some channels, while ever more of them are known.

    Args:
        left: (F, F), the covariance of the features that the known channels do not tell; a channel's features together.
        through: (F, F), `left` times what the layer makes of them, times `left`.
        error: of what the layer makes, from the known channels alone.
    """

    left: Tensor
    through: Tensor
    error: float

    @classmethod
    def of(
        cls,
        reader: nn.Module,
        moments: Moments | None,
        own: slice,
        power: Tensor | None = None,
        channels: Tensor | None = None,
    ) -> Reading:
        """Nothing known yet.

        Args:
            moments: of the layer; without them, and without `channels`, channels are taken to be independent and alike.
            own: of the channels that the layer reads, those that count here.
            power: how errors of the channels that it makes count together, (C_out, C_out); by default all alike, and
                so that the error is 1.
            channels: (C_in, C_in), how the channels vary together, where the moments of all features are not known.
        """
        count = widths_of(reader)[0]
        taps = fan(reader)[0] // count
        features = slice(own.start * taps, own.stop * taps)
        weight = dense_map(reader)[features]
        weighed = weight
        if power is not None:
            weighed = torch.einsum("fot,op->fpt", weight.reshape(len(weight), len(power), -1), power).flatten(1)
        known = moments is not None and moments.count
        centred = makes_up_for_means(reader)
        if known and len(weight) <= _MOST_FEATURES:
            assert moments is not None
            left, made = moments.second(centred=centred)[features, features].clone(), weight @ weighed.T
        else:  # taps are not told apart
            by_tap = (rows.reshape(-1, taps, rows.shape[1]) for rows in (weight, weighed))
            made = torch.einsum("cto,dto->cd", *by_tap)
            if known:
                assert moments is not None
                left = _of_channels(moments.second(centred=centred)[features, features], taps) / taps
            else:
                left = torch.eye(len(made), dtype=torch.float64) if channels is None else channels[own, own].clone()
        error = float((left * made).sum())
        if power is None:
            made, error = made / max(error, torch.finfo(made.dtype).tiny), 1.0 if error else 0.0
        return cls(left, left @ made @ left, error)

    def gains(self, blocks: int) -> Tensor:
        """(blocks,): by how much the error falls when a block of channels is known as well."""
        return (self._inverse(_diagonal(self.left, blocks)) * _diagonal(self.through, blocks)).sum((1, 2))

    def know(self, block: int, blocks: int) -> None:
        """A block of channels is known."""
        size = len(self.left) // blocks
        rows = slice(block * size, (block + 1) * size)
        told, through, own = self.left[:, rows], self.through[:, rows], self.through[rows, rows]
        inverse = self._inverse(self.left[rows, rows])
        self.error = max(0.0, self.error - float((inverse * own).sum()))
        weights = told @ inverse
        crossed = through @ weights.T
        self.through = self.through - crossed - crossed.T + weights @ own @ weights.T
        self.left = self.left - weights @ told.T

    def _inverse(self, square: Tensor) -> Tensor:
        """Of (..., n, n) parts of what is left; what is as good as told already is left out."""
        values, vectors = torch.linalg.eigh(square)
        kept = values > _TOLD * self._scale
        inverse = torch.where(kept, values, torch.inf).reciprocal()
        return torch.einsum("...ij,...j,...kj->...ik", vectors, inverse, vectors)

    def __post_init__(self) -> None:
        self._scale = max(float(self.left.diagonal().mean()), torch.finfo(self.left.dtype).tiny)


def makes_up_for_means(reader: nn.Module) -> bool:
    """Whether a layer's bias can stand in for what channels are on average; patches of transposed ones overlap."""
    return has_bias(reader) and not is_transposed(reader)


def selected(readings: Sequence[Reading], channels: int, count: int, step: int = 1) -> tuple[list[int], list[float]]:
    """Blocks of `step` channels, one after the other; the readings know them afterwards.

    Args:
        readings: of every layer that reads the channels.
        count: how many blocks.

    Returns:
        the channels in the order in which they were taken, those of a block together; and the error that is left after
        none, one, two, ... blocks, over all readings, count + 1 numbers.
    """
    blocks, taken, order = channels // step, list[int](), list[int]()
    errors = [sum(reading.error for reading in readings)]
    for _ in range(count):
        gains = sum((reading.gains(blocks) for reading in readings), torch.zeros(blocks, dtype=torch.float64))
        gains[taken] = -torch.inf
        best = int(gains.argmax())
        taken.append(best)
        order += range(best * step, (best + 1) * step)
        for reading in readings:
            reading.know(best, blocks)
        errors.append(sum(reading.error for reading in readings))
    return order, errors


def _diagonal(square: Tensor, blocks: int) -> Tensor:
    """(blocks, n, n): the blocks along the diagonal."""
    size = len(square) // blocks
    return square.reshape(blocks, size, blocks, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _of_channels(square: Tensor, taps: int) -> Tensor:
    """(C, C) from (C * taps, C * taps): summed over like taps."""
    channels = len(square) // taps
    return torch.einsum("ctdt->cd", square.reshape(channels, taps, channels, taps))
