"""A search as a picture: block by block, candidate by candidate, what each costs the output."""

from __future__ import annotations

import math
from pathlib import Path

from ..checkpoint.atomic import whole_file
from .ladder import KEPT
from .outcome import Outcome


def draw_sensitivity(outcome: Outcome, path: Path) -> bool:
    """A map of the scores: blocks as rows, candidates as columns; False where matplotlib is not installed.

    Args:
        path: the PNG.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    blocks = list(dict.fromkeys(entry.block for entry in outcome.entries))
    names = list(dict.fromkeys(entry.candidate for entry in outcome.entries if entry.candidate != KEPT))
    variance = max(1e-30, outcome.scores.variance)
    shares = {
        (entry.block, entry.candidate): error / variance
        for entry, error in zip(outcome.entries, outcome.scores.error, strict=True)
    }
    values = [[_level(shares.get((block, name))) for name in names] for block in blocks]
    figure = Figure(figsize=(3.5 + 0.95 * len(names), 1.6 + 0.3 * len(blocks)), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(values, aspect="auto", cmap="viridis_r", vmin=-5, vmax=0)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(blocks)), blocks, fontsize=7)
    for row, block in enumerate(blocks):
        for column, name in enumerate(names):
            share = shares.get((block, name))
            if share is not None:
                dark = _level(share) > -2
                colour = "white" if dark else "black"
                axes.text(column, row, f"{share:.1g}", ha="center", va="center", fontsize=6.5, color=colour)
    figure.colorbar(picture, label="error of the output over its variance, log10")
    axes.set_title("One block replaced at a time")
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True


def _level(share: float | None) -> float:
    return math.nan if share is None else math.log10(max(share, 1e-5))
