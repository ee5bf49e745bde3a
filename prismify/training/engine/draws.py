"""Random numbers of a step: the same for an image, whichever process computes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...generators import mixed
from .processes import Part, Processes


class Draws:
    """What a run draws for the images of its steps.

    Args:
        seed: the run's.
    """

    def __init__(self, seed: int, processes: Processes) -> None:
        self.seed, self.processes = seed, processes
        self._noise: tuple[int, Tensor] | None = None

    def noise(self, step: int, part: Part, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers for this process's images."""
        if self._noise is None or self._noise[0] != step:
            drawn = torch.Generator().manual_seed(mixed(self.seed, 2, step))
            self._noise = (step, torch.randn((self.processes.shares.batch_size, *shape), generator=drawn))
        return self._mine(self._noise[1], part)

    def chances(self, step: int, part: Part, count: int) -> Tensor:
        """Uniform numbers in [0, 1) for this process's images, shape (B, count)."""
        drawn = torch.Generator().manual_seed(mixed(self.seed, 4, step))
        return self._mine(torch.rand((self.processes.shares.batch_size, count), generator=drawn), part)

    def _mine(self, everything: Tensor, part: Part) -> Tensor:
        positions = self.processes.shares.positions(0, part.index)
        return everything[positions.start : positions.stop].to(self.processes.device)
