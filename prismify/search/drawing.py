"""A search as a picture: block by block, candidate by candidate, what each costs the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoint.atomic import whole_file
from .ladder import KEPT
from .outcome import Outcome
from .widths import WidthsOutcome

#: Shares of the channels left, as a map of widths shows them.
_SHARES = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)


def draw_sensitivity(outcome: Outcome, path: Path) -> bool:
    """A map of the scores: blocks as rows, candidates as columns; False where matplotlib is not installed.

    Args:
        path: the PNG.
    """
    blocks = list(dict.fromkeys(entry.block for entry in outcome.entries))
    names = list(dict.fromkeys(entry.candidate for entry in outcome.entries if entry.candidate != KEPT))
    variance = max(1e-30, outcome.scores.variance)
    shares = {
        (entry.block, entry.candidate): error / variance
        for entry, error in zip(outcome.entries, outcome.scores.error, strict=True)
    }
    rows = {block: [shares.get((block, name)) for name in names] for block in blocks}
    return _draw(rows, names, "One block replaced at a time", path)


def draw_curves(outcome: WidthsOutcome, path: Path) -> bool:
    """A map of the expected errors: widths as rows, the share of channels left as columns; False without matplotlib.

    Args:
        path: the PNG.
    """
    rows, shares = widths_map(outcome)
    return _draw(rows, shares, "One width narrowed at a time, before training", path)


def widths_map(outcome: WidthsOutcome) -> tuple[dict[str, list[float | None]], list[str]]:
    """The expected errors over the output's variance: a row for each width, and what its columns are called."""
    variance = max(1e-30, outcome.spread.variance)
    rows: dict[str, list[float | None]] = {}
    for curve in outcome.curves:
        found = []
        for share in _SHARES:
            distances = [abs(left - share * curve.channels) for left in curve.levels]
            found.append(curve.errors[distances.index(min(distances))] / variance)
        rows[f"{curve.name} ({curve.channels})"] = list(found)
    return rows, [f"{share:g}" for share in _SHARES]


def _draw(rows: Mapping[str, Sequence[float | None]], names: Sequence[str], title: str, path: Path) -> bool:
    """Errors over the output's variance as a map, written into its cells."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    values = [[_level(share) for share in row] for row in rows.values()]
    figure = Figure(figsize=(3.5 + 0.95 * len(names), 1.6 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(values, aspect="auto", cmap="viridis_r", vmin=-5, vmax=0)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    for number, row in enumerate(rows.values()):
        for column, share in enumerate(row):
            if share is not None:
                colour = "white" if _level(share) > -2 else "black"
                axes.text(column, number, f"{share:.1g}", ha="center", va="center", fontsize=6.5, color=colour)
    figure.colorbar(picture, label="error of the output over its variance, log10")
    axes.set_title(title)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True


def _level(share: float | None) -> float:
    return math.nan if share is None else math.log10(max(share, 1e-5))
