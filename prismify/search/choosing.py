"""The exact choice under budgets: one candidate a block, the least summed error (an integer linear programme)."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..errors import PlanError


@dataclass(frozen=True)
class Budget:
    """What a choice may cost at most, summed over the blocks; None leaves a measure free.

    Where only `error` is given, the choice with the fewest parameters is looked for.

    Args:
        parameters: of the blocks' layers.
        macs: multiply-adds of those.
        milliseconds: of the blocks.
        error: summed scores.
    """

    parameters: float | None = None
    macs: float | None = None
    milliseconds: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Option:
    """One entry of a block as numbers: what it costs."""

    block: str
    parameters: float
    macs: float
    milliseconds: float
    error: float


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keep what a library in C prints off this process's standard output: HiGHS leaves lines there, asked or not."""
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else lambda stream: None
    sys.stdout.flush()
    flush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
        flush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def choose(options: Sequence[Option], budget: Budget) -> list[int]:
    """The numbers of the chosen options, one for each block.

    With a budget of parameters, multiply-adds or time the summed error is the least there is; with a bound on the
    error alone, the parameters are.

    Raises:
        PlanError: no choice keeps the budget; the message says what the least is.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    blocks = {name: i for i, name in enumerate(dict.fromkeys(option.block for option in options))}
    place = np.array([blocks[option.block] for option in options])
    count = len(options)
    one_each = csr_array((np.ones(count), (place, np.arange(count))), shape=(len(blocks), count))
    constraints = [LinearConstraint(one_each, 1, 1)]
    costs = {
        name: np.array([getattr(option, name) for option in options], dtype=float)
        for name in ("parameters", "macs", "milliseconds", "error")
    }
    for name, cost in costs.items():
        most = getattr(budget, name)
        if most is None:
            continue
        least = sum(cost[place == i].min() for i in range(len(blocks)))
        if least > most * (1 + 1e-12):
            raise PlanError(f"no choice has at most {most:,.4g} {name}: the least is {least:,.4g}")
        scale = float(np.abs(cost).max()) or 1.0
        constraints.append(LinearConstraint(csr_array(cost[None] / scale), -np.inf, most / scale))
    free = budget.parameters is None and budget.macs is None and budget.milliseconds is None
    goal = costs["parameters" if free else "error"]
    scaled = goal / (goal[goal > 0].mean() if (goal > 0).any() else 1.0)
    with _quiet_stdout():
        found = milp(scaled, integrality=np.ones(count), bounds=Bounds(0, 1), constraints=constraints)
    if found.x is None:
        raise PlanError("no choice keeps these budgets together: allow more of one of them")
    return [int(n) for n in np.flatnonzero(found.x > 0.5)]
