"""What a search found, chosen from and shown: of blocks and their candidates, or of widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from ..plan import Plan
from ..search import Budget, read_outcome, write_plan
from ..search.widths import read_widths, write_widths_plan
from .table import broken_at_dots, change


class OfBlocks:
    """A search of blocks, and what was chosen of it."""

    beside: ClassVar[str] = ", and beside it what its candidates have learned"

    def __init__(self, folder: Path) -> None:
        self.outcome = read_outcome(folder)
        self._chosen: list[int] = []

    @property
    def variance(self) -> float:
        """Of the output."""
        return self.outcome.scores.variance

    def choose(self, budget: Budget, path: Path, said: str) -> None:
        """Make the choice, and write its plan."""
        self._chosen = self.outcome.within(budget)
        write_plan(self.outcome, self._chosen, path, said)

    def as_data(self, path: Path | None) -> dict[str, Any]:
        """For `--json`."""
        entries = [self.outcome.entries[n] for n in self._chosen]
        rows = [{"block": entry.block, "candidate": entry.candidate} for entry in entries]
        expected = self.outcome.expected(self._chosen)
        return _data(self.outcome.folder, self.outcome.plan, self.outcome.scores.correlation, path, rows, expected)

    def show(self) -> None:
        """What was chosen, block by block, and what is expected of it."""
        outcome, scores = self.outcome, self.outcome.scores
        if self._chosen:
            table = _table("block", "becomes", "parameters", "error")
            for n in self._chosen:
                entry = outcome.entries[n]
                before, error = sum(row.parameters_before for row in entry.rows), scores.error[n]
                style = "dim" if entry.parameters == before else "green"
                shown = _share(error, self.variance)
                name = broken_at_dots(entry.block, 32)
                table.add_row(name, entry.candidate, change(before, entry.parameters), shown, style=style)
            Console(highlight=False).print(table)
            print(_sums(outcome.plan, outcome.expected(self._chosen)))
        else:
            blocks = len(dict.fromkeys(entry.block for entry in outcome.entries))
            print(f"{blocks} blocks, {len(outcome.entries) - blocks} candidates, scored on {scores.images} images")
        print(f"{_ranked(scores.correlation)}, and those that budgets lead to: {scores.likely_correlation:.3f}")


class OfWidths:
    """A search of widths, and what was chosen of it."""

    beside: ClassVar[str] = ""

    def __init__(self, folder: Path) -> None:
        self.outcome = read_widths(folder)
        self._left: dict[str, int] = {}

    @property
    def variance(self) -> float:
        """Of the output."""
        return self.outcome.spread.variance

    def choose(self, budget: Budget, path: Path, said: str) -> None:
        """Make the choice, and write its plan."""
        self._left = self.outcome.within(budget)
        write_widths_plan(self.outcome, self._left, path, said)

    def as_data(self, path: Path | None) -> dict[str, Any]:
        """For `--json`."""
        rows = [{"width": name, "channels": channels} for name, channels in self._left.items()]
        expected = self.outcome.expected(self._left) if self._left else {}
        return _data(self.outcome.folder, self.outcome.plan, self.outcome.spread.correlation, path, rows, expected)

    def show(self) -> None:
        """What was chosen, width by width, and what is expected of it."""
        outcome = self.outcome
        if self._left:
            table = _table("channels made by", "channels", "error")
            for curve in outcome.curves:
                left = self._left[curve.name]
                shown = _share(curve.errors[curve.levels.index(left)], self.variance)
                style = "dim" if left == curve.channels else "green"
                table.add_row(broken_at_dots(curve.name, 40), change(curve.channels, left), shown, style=style)
            Console(highlight=False).print(table)
            print(_sums(outcome.plan, outcome.expected(self._left)))
        else:
            print(f"{len(outcome.curves)} widths, seen on {outcome.spread.images} images")
        print(_ranked(outcome.spread.correlation))


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        left = number == 0 or heading == "becomes"
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    return table


def _share(error: float, variance: float) -> str:
    return f"{error / max(1e-30, variance):.2g}" if error else ""


def _sums(plan: Plan, expected: dict[str, float]) -> str:
    before, after = plan.parameters.before, expected["parameters"]
    words = [f"{before:,} -> {after:,.0f} parameters ({before / after:.3g}x)"]
    words += [f"multiply-adds {plan.macs.before / max(1, expected['macs']):.3g}x fewer"]
    words += [f"{expected['relative_error']:.2g} of the output's variance lost before retraining"]
    words += [f"{expected['drop_db']:.2f} dB"] if "drop_db" in expected else []
    return "; ".join(words)


def _ranked(correlation: float) -> str:
    return f"summed scores rank random choices as their errors do: {correlation:.3f}"


def _data(
    folder: Path,
    plan: Plan,
    correlation: float,
    path: Path | None,
    rows: list[dict[str, Any]],
    expected: dict[str, float],
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "folder": str(folder),
        "before": {"parameters": plan.parameters.before, "macs": plan.macs.before},
        "rank_correlation": correlation,
    }
    if path is not None:
        found |= {"plan": str(path), "chosen": rows, "expected": expected}
    return found
