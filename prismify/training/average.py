"""An exponential moving average of a model's weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from ..rewrite import copied

M = TypeVar("M", bound=nn.Module)


class Average:
    """A copy of a model that follows its weights: average = decay * average + (1 - decay) * weights.

    The first steps forget faster, (1 + n) / (10 + n) after n of them, so that the start is not kept for long.
    With `decay` None the copy is the model's latest weights.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        with torch.no_grad():  # scripted parts copy their weights by an operator, which would be differentiated
            self.model = copied(model, {}, {}).eval().requires_grad_(False)

    def restart(self, model: nn.Module) -> None:
        """Forget what was averaged, and start from a model's weights as they are."""
        self.model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Follow the model's weights after its step number `steps`, from 1."""
        ours = [*self.model.parameters(), *self.model.buffers()]
        theirs = [*model.parameters(), *model.buffers()]
        decay = 0.0 if self.decay is None else min(self.decay, (1 + steps) / (10 + steps))
        averages, weights = [], []
        for mine, its in zip(ours, theirs, strict=True):
            if decay and mine.is_floating_point():
                averages.append(mine)
                weights.append(its.to(mine.dtype))
            else:
                mine.copy_(its)
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - decay)
