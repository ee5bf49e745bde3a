"""Seeing that a loss diverges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_WARM_UP = 50
_PATIENCE = 10
_MEMORY = 0.99


class Divergence:
    """Watches each term: not a number stops at once; far above its own running mean, after ten steps in a row.

    Args:
        factor: what counts as far.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._means: dict[str, list[float]] = {}  # name -> [running mean of the size, steps seen, steps too high]

    def see(self, values: Mapping[str, float]) -> str | None:
        """Take in one step's terms; why the run must stop, or None."""
        for name, value in values.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            mean, seen, high = self._means.setdefault(name, [abs(value), 0.0, 0.0])
            # Losses near zero, and logits that change their sign, are no divergence.
            too_high = seen >= _WARM_UP and abs(value) > self.factor * max(mean, 1e-3)
            high = high + 1 if too_high else 0.0
            if high >= _PATIENCE:
                return f"{name} is {value:.4g}, {self.factor:g} times what it was ({mean:.4g}), for {_PATIENCE} steps"
            if not too_high:
                mean = _MEMORY * mean + (1 - _MEMORY) * abs(value)
            self._means[name] = [mean, seen + 1, high]
        return None

    def state_dict(self) -> dict[str, Any]:
        return {name: list(row) for name, row in self._means.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._means = {name: list(row) for name, row in state.items()}
