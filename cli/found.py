"""What a search found, of blocks or of widths, as plain data: what was chosen, and what is expected of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..plan import Plan
from ..search import Outcome
from ..search.widths import WidthsOutcome
from .table import broken_at_dots, change


@dataclass(frozen=True)
class Row:
    """What became of a block or a width: cells of the table, and whether it changed."""

    cells: tuple[str, ...]
    changed: bool


@dataclass(frozen=True)
class Found:
    """A search, and what was chosen of it.

    Args:
        folder: of the search.
        plan: of the model, for what it was before.
        headings, sides, rows: a table of what was chosen, and where its columns stand; no rows where nothing was.
        chosen: the same as plain data.
        expected: its sums, of the whole model.
        searched: what was searched, in words.
        ranked: how far sums can be trusted, in words.
        correlation: the same as a number.
        unknown: measures of which nothing is known, as a budget names them.
    """

    folder: Path
    plan: Plan
    headings: tuple[str, ...]
    sides: tuple[Literal["left", "right"], ...]
    rows: tuple[Row, ...]
    chosen: tuple[dict[str, Any], ...]
    expected: dict[str, float]
    searched: str
    ranked: str
    correlation: float
    unknown: tuple[str, ...] = ()


def found_of_blocks(outcome: Outcome, chosen: Sequence[int]) -> Found:
    """A search of blocks; `chosen` are numbers of entries."""
    scores, rows = outcome.scores, []
    for n in chosen:
        entry = outcome.entries[n]
        before = sum(row.parameters_before for row in entry.rows)
        cells = (broken_at_dots(entry.block, 32), entry.candidate, change(before, entry.parameters))
        rows.append(Row((*cells, _share(scores.error[n], scores.variance)), entry.parameters != before))
    blocks = len(dict.fromkeys(entry.block for entry in outcome.entries))
    ranked = _ranked(scores.correlation)
    ranked += f", and choices such as budgets lead to: {scores.likely_correlation:.3f}" if scores.likely else ""
    return Found(
        outcome.folder,
        outcome.plan,
        ("block", "becomes", "parameters", "error"),
        ("left", "left", "right", "right"),
        tuple(rows),
        tuple({"block": outcome.entries[n].block, "candidate": outcome.entries[n].candidate} for n in chosen),
        outcome.expected(chosen) if chosen else {},
        f"{blocks} blocks, {len(outcome.entries) - blocks} candidates, scored on {scores.images} images",
        ranked,
        scores.correlation,
        () if scores.reference is not None else ("max drop",),
    )


def found_of_widths(outcome: WidthsOutcome, left: dict[str, int]) -> Found:
    """A search of widths; `left` are channels by the name of a width."""
    rows = []
    for curve in outcome.curves if left else ():
        channels = left[curve.name]
        shown = _share(curve.errors[curve.levels.index(channels)], outcome.spread.variance)
        cells = (broken_at_dots(curve.name, 40), change(curve.channels, channels), shown)
        rows.append(Row(cells, channels != curve.channels))
    return Found(
        outcome.folder,
        outcome.plan,
        ("channels made by", "channels", "error"),
        ("left", "right", "right"),
        tuple(rows),
        tuple({"width": name, "channels": channels} for name, channels in left.items()),
        outcome.expected(left) if left else {},
        f"{len(outcome.curves)} widths, seen on {outcome.spread.images} images",
        _ranked(outcome.spread.correlation),
        outcome.spread.correlation,
        ("ms",) if outcome.spread.reference is not None else ("ms", "max drop"),
    )


def sums(found: Found) -> str:
    """What the whole model is expected to be, in a line."""
    before, expected = found.plan.parameters.before, found.expected
    words = [f"{before:,} -> {expected['parameters']:,.0f} parameters ({before / expected['parameters']:.3g}x)"]
    words += [f"multiply-adds {found.plan.macs.before / max(1, expected['macs']):.3g}x fewer"]
    words += [f"{expected['relative_error']:.2g} of the output's variance lost before retraining"]
    words += [f"{expected['drop_db']:.2f} dB"] if "drop_db" in expected else []
    return "; ".join(words)


def as_data(found: Found, path: Path | None) -> dict[str, Any]:
    """For `--json`; `path` is that of the plan."""
    plain: dict[str, Any] = {
        "folder": str(found.folder),
        "before": {"parameters": found.plan.parameters.before, "macs": found.plan.macs.before},
        "rank_correlation": found.correlation,
    }
    if path is not None:
        plain |= {"plan": str(path), "chosen": list(found.chosen), "expected": found.expected}
    return plain


def _share(error: float, variance: float) -> str:
    return f"{error / max(1e-30, variance):.2g}" if error else ""


def _ranked(correlation: float) -> str:
    return f"summed scores rank random choices as their errors do: {correlation:.3f}"
