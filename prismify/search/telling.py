"""What is told of a search: its scores as a map, in plain data for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import whole_file
from ..page import HTML_NAME, document_of, page_text
from ..scanning import build_report
from ..training.engine.telling import is_run, run_section
from .drawing import widths_map
from .ladder import KEPT
from .outcome import SCORES, Outcome, read_outcome
from .widths import WIDTHS, WidthsOutcome, read_widths

#: Of the numbers before and after: what is searched has no plan yet.
_NOTHING_CHOSEN = "This is the searched model as it is; a budget makes a plan of it, and a plan a smaller model."
_LEAST = "After is the searched model with as few channels as can be; a budget makes a plan that keeps more."
_OF_OUTPUT = "error of the output over its variance"


def is_search(folder: Path) -> bool:
    """Whether a folder holds a finished search."""
    return (folder / SCORES).is_file() or (folder / WIDTHS).is_file()


def read_any(folder: Path) -> Outcome | WidthsOutcome:
    """The search of blocks or of widths that a folder holds.

    Raises:
        PlanError: it holds none, or one that is damaged.
    """
    return read_widths(folder) if (folder / WIDTHS).is_file() else read_outcome(folder)


def search_section(outcome: Outcome | WidthsOutcome) -> dict[str, Any]:
    """A search as a page shows it.

    Returns:
        told (lines), how (what was tried), of (what the rows are), rows, columns, and measures: key -> name, text,
        counts (whether it is a number of something), cells.
    """
    return _of_blocks(outcome) if isinstance(outcome, Outcome) else _of_widths(outcome)


def searched_report(outcome: Outcome | WidthsOutcome) -> dict[str, Any]:
    """The report of the model that was searched, before anything is chosen."""
    report = build_report(outcome.plan, outcome.source)
    report["notes"].append(_NOTHING_CHOSEN if isinstance(outcome, Outcome) else _LEAST)
    return report


def write_page(outcome: Outcome | WidthsOutcome) -> None:
    """`report.html` of a search's folder: the searched model, what each choice costs it, and the run.

    Raises:
        OutputError: it cannot be written.
    """
    runs = [run_section(outcome.folder)] if is_run(outcome.folder) else []
    with whole_file(outcome.folder / HTML_NAME) as draft:
        document = document_of(searched_report(outcome), search=search_section(outcome), runs=runs)
        draft.write_text(page_text(document), encoding="utf-8")


def _of_blocks(outcome: Outcome) -> dict[str, Any]:
    scores, entries = outcome.scores, outcome.entries
    blocks = list(dict.fromkeys(entry.block for entry in entries))
    names = list(dict.fromkeys(entry.candidate for entry in entries if entry.candidate != KEPT))
    variance = max(1e-30, scores.variance)
    values: dict[str, tuple[str, str, Sequence[float]]] = {
        "error": ("error", _OF_OUTPUT, [error / variance for error in scores.error]),
        "block": ("the block's own error", "error of the block's output over its variance", scores.block_error),
        "parameters": ("parameters", "parameters of the block", [entry.parameters for entry in entries]),
        "macs": ("multiply-adds", "multiply-adds of the block", [entry.macs for entry in entries]),
        "ms": ("milliseconds", "milliseconds of the block for one image", scores.milliseconds),
    }
    measures = {}
    for key, (name, text, numbers) in values.items():
        known = {(e.block, e.candidate): number for e, number in zip(entries, numbers, strict=True)}
        cells = [[_short(known.get((block, candidate))) for candidate in names] for block in blocks]
        measures[key] = {"name": name, "text": text, "counts": key in ("parameters", "macs"), "cells": cells}
    likely = f", and those that budgets lead to: {scores.likely_correlation:.3f}" if scores.likely else ""
    return {
        "told": [
            f"{len(blocks)} blocks, {len(entries) - len(blocks)} candidates, scored on {scores.images} images.",
            f"Summed scores rank random choices as their errors do (1 is perfect): {scores.correlation:.3f}{likely}.",
        ],
        "how": "one block replaced at a time",
        "of": "block",
        "rows": blocks,
        "columns": names,
        "measures": measures,
    }


def _of_widths(outcome: WidthsOutcome) -> dict[str, Any]:
    rows, shares = widths_map(outcome)
    cells = [[_short(value) for value in row] for row in rows.values()]
    return {
        "told": [
            f"{len(outcome.curves)} widths, seen on {outcome.spread.images} images.",
            f"Summed errors rank random choices as their errors do (1 is perfect): {outcome.spread.correlation:.3f}.",
        ],
        "how": "one width narrowed at a time, before training; columns are shares of its channels left",
        "of": "channels made by",
        "rows": list(rows),
        "columns": shares,
        "measures": {"error": {"name": "error", "text": _OF_OUTPUT, "counts": False, "cells": cells}},
    }


def _short(value: float | None) -> float | None:
    """A number to three figures, so that maps of thousands of candidates stay small; counts stay whole."""
    return value if value is None or isinstance(value, int) else float(f"{value:.3g}")
