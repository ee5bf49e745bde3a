"""Measured figures of a card, as the files beside a model have them: each with its N and its data, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ...errors import SourceError
from ..manifest import read_json

EVALUATION_NAME = "evaluation.json"


@dataclass(frozen=True)
class Figures:
    """A table of measurements.

    Args:
        models: the columns: what was measured.
        rows: a metric, and a number in words for each model.
        on: how many images of what, in words.
    """

    models: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    on: str


def evaluation_figures(folder: Path) -> Figures | None:
    """What `prismify evaluate -o` wrote into a folder; None where it did not, or that is damaged."""
    path = folder / EVALUATION_NAME
    try:
        content = read_json(path) if path.is_file() else {}
    except SourceError:
        return None
    models, data = content.get("models"), content.get("data")
    if not (isinstance(models, dict) and models and isinstance(data, dict) and isinstance(data.get("images"), int)):
        return None
    if not all(isinstance(row, dict) for row in models.values()):
        return None
    metrics = list(dict.fromkeys(metric for row in models.values() for metric in row))
    rows = [(str(metric), [_spread(row.get(metric)) for row in models.values()]) for metric in metrics]
    size = f", cut to {data['size']}×{data['size']}" if isinstance(data.get("size"), int) else ""
    where = PurePath(str(data.get("path", ""))).name or "unnamed data"
    chosen = f" ({data['select']})" if isinstance(data.get("select"), str) else ""
    return Figures([PurePath(str(m)).name for m in models], rows, f"{data['images']:,} images of {where}{chosen}{size}")


def _spread(cell: Any) -> str:
    """A mean with the deviation over what it was taken over."""
    if not isinstance(cell, Mapping) or not _is_number(cell.get("mean")):
        return "-"
    over = f" ± {cell['deviation']:.2g}" if _is_number(cell.get("deviation")) else ""
    return f"{cell['mean']:.4g}{over}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
