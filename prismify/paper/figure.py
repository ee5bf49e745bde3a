"""Figure 1: quality against parameters, as a table and a picture, from points that were made."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import whole_file
from .table import Table


def figure_1(points: Sequence[dict[str, Any]]) -> Table:
    """A row for each method and size: means over seeds, with their deviation where there are several."""
    rows = []
    for (family, name), same in _grouped(points).items():
        scores = [
            _over_seeds([p["scores"][key]["mean"] for p in same], digits) for key, digits in (("PSNR", 2), ("SSIM", 3))
        ]
        steps = round(statistics.mean(p["steps"] for p in same))
        rows.append((family, name, same[0]["parameters"], len(same), steps, *scores))
    rows.sort(key=lambda row: row[2])
    first = points[0]
    notes = (
        f"Each trained for {first['budget']['minutes']:g} minutes by the recipe `cifar10-fast` on {first['hardware']}, "
        f"torch {first['versions']['torch']}, with what its row changes, and measured on {first['images']:,} images of "
        f"{first['budget']['test']}. ± is the deviation over seeds.",
    )
    columns = ("method", "size", "parameters", "seeds", "steps", "PSNR, dB", "SSIM")
    return Table("figure1", "Figure 1: quality against parameters, in equal time", columns, tuple(rows), notes)


def draw_figure_1(points: Sequence[dict[str, Any]], path: Path) -> bool:
    """PSNR against parameters, a line for each method; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[tuple[int, list[float]]]] = {}
    for (family, _), same in _grouped(points).items():
        families.setdefault(family, []).append((same[0]["parameters"], [p["scores"]["PSNR"]["mean"] for p in same]))
    for family, sizes in families.items():
        sizes.sort()
        middles = [statistics.mean(values) for _, values in sizes]
        spread = [statistics.pstdev(values) for _, values in sizes]
        axes.errorbar([n for n, _ in sizes], middles, spread, marker="o", ms=4, capsize=2, label=family)
    axes.set(xlabel="parameters", ylabel="PSNR, dB", xscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True


def _grouped(points: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        found.setdefault((point["family"], point["name"]), []).append(point)
    return found


def _over_seeds(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {statistics.stdev(values):.{digits}f}"
