"""Table 4 and Figure 1 from points that were made: quality beside the paper's, and against parameters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import whole_file
from .methods import DEEP_PRISM, DENSE
from .table import Table

#: Table 4 as it is printed: C = 256, of CIFAR-10's test images; ± over images, of IS and KID over splits.
PRINTED_4 = {
    DENSE: ("18.8 ± 2.4", "0.609 ± 0.106", "2.07 ± 0.49", "5.99 ± 0.12", "0.0146 ± 0.0011", "25.3M"),
    DEEP_PRISM: ("24.1 ± 2.5", "0.850 ± 0.053", "1.03 ± 0.27", "6.08 ± 0.15", "0.0179 ± 0.0011", "57.8K"),
}
#: Metric -> digits behind the point.
_DIGITS = {"PSNR": 2, "SSIM": 3, "LPIPS": 3, "IS": 2, "KID": 4}


def table_4(points: Sequence[dict[str, Any]]) -> Table:
    """The paper's two rows, and below each ours: means over seeds, ± as the paper's, and over the seeds."""
    rows: list[tuple[Any, ...]] = []
    for family, printed in PRINTED_4.items():
        rows.append((family, "paper, C = 256", None, None, *printed))
        for (its, name), same in _grouped(points).items():
            if its == family:
                cells = [_both_spreads(same, metric) for metric in _DIGITS]
                rows.append((family, f"here, {name}", len(same), _steps(same), *cells, f"{same[0]['parameters']:,}"))
    columns = ("model", "where", "seeds", "steps", "PSNR, dB", "SSIM", "LPIPS", "IS", "KID", "parameters")
    notes = (
        _how(points),
        "± is the deviation over images (of IS and KID over splits and subsets), as the paper's; in brackets the "
        f"deviation of the means over seeds. {_judged(points)}".rstrip(),
    )
    return Table("table4", "Table 4: the autoencoder, dense and converted", columns, tuple(rows), notes)


def figure_1(points: Sequence[dict[str, Any]]) -> Table:
    """A row for each method and size: means over seeds, with their deviation where there are several."""
    kinds = [kind for kind in _DIGITS if all(_score(p, kind) is not None for p in points)]
    rows = []
    for (family, name), same in _grouped(points).items():
        scores = [_over_seeds([_mean(p, kind) for p in same], _DIGITS[kind]) for kind in kinds]
        rows.append((family, name, same[0]["parameters"], len(same), _steps(same), *scores))
    rows.sort(key=lambda row: row[2])
    columns = ("method", "size", "parameters", "seeds", "steps", *(f"{k}, dB" if k == "PSNR" else k for k in kinds))
    notes = (f"{_how(points)} ± is the deviation over seeds. {_judged(points)}".strip(), *_beaten(points))
    return Table("figure1", "Figure 1: quality against parameters, in equal time", columns, tuple(rows), notes)


def draw_figure_1(points: Sequence[dict[str, Any]], path: Path) -> bool:
    """PSNR, and IS where it was measured, against parameters; a line for each method.

    Returns:
        False where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    kinds = [kind for kind in ("PSNR", "IS") if all(_score(p, kind) is not None for p in points)]
    sizes = [p["parameters"] for p in points]
    figure = Figure(figsize=(7, 4 * len(kinds) + 0.8), layout="constrained")
    for axes, kind in zip(figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0], kinds, strict=True):
        families: dict[str, list[tuple[int, list[float]]]] = {}
        for (family, _), same in _grouped(points).items():
            families.setdefault(family, []).append((same[0]["parameters"], [_mean(p, kind) for p in same]))
        for family, own in families.items():
            own.sort()
            middles = [statistics.mean(values) for _, values in own]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in own]
            axes.errorbar([n for n, _ in own], middles, spread, marker="o", ms=4, capsize=2, label=family)
        axes.set(xscale="log", xlim=(min(sizes) / 1.3, max(sizes) * 1.3))
        axes.set(ylabel="PSNR, dB" if kind == "PSNR" else _score_key(points[0], kind))
        axes.grid(alpha=0.3, which="both")
    axes.set(xlabel="parameters")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    return True


def _beaten(points: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Whether anything no larger than a DeepPrism model reconstructs better, in a sentence for each of those models."""
    means = {key: statistics.mean(_mean(p, "PSNR") for p in same) for key, same in _grouped(points).items()}
    sizes = {key: same[0]["parameters"] for key, same in _grouped(points).items()}
    said = []
    for key in sorted(means, key=lambda key: sizes[key]):
        if key[0] == DEEP_PRISM:
            others = [k for k in means if not k[0].startswith(DEEP_PRISM) and sizes[k] <= sizes[key]]
            if not others:  # nothing was trained that could be better
                continue
            better = [f"{k[0]}, {k[1]}" for k in others if means[k] > means[key]]
            what = f"better by PSNR: {'; '.join(better)}" if better else "better by PSNR: none"
            said.append(f"Other methods with at most the {sizes[key]:,} parameters of {', '.join(key)}, {what}.")
    return tuple(said)


def _how(points: Sequence[dict[str, Any]]) -> str:
    first = points[0]
    setting = first["setting"]
    for_ = "as long as it says" if setting["minutes"] is None else f"for {setting['minutes']:g} minutes"
    days = sorted({p["date"] for p in points})
    dates = " to ".join(dict.fromkeys((days[0], days[-1])))
    where = " and ".join(sorted({f"{p['hardware']}, torch {p['versions']['torch']}" for p in points}))
    images = " or ".join(f"{n:,}" for n in sorted({p["images"] for p in points}))
    return (
        f"Each trained by the recipe `{setting['recipe']}` {for_} (budget `{setting['budget']}`) with what its row "
        f"changes, on {where}, {dates}, and measured on {images} images of {setting['test']}."
    )


def _judged(points: Sequence[dict[str, Any]]) -> str:
    """Who judged, in a sentence; nothing where only pixels did."""
    keys = [_score_key(points[0], kind) for kind in ("LPIPS", "IS", "KID")]
    named = [key for key in keys if key is not None and "(" in key]
    return f"Judged: {', '.join(named)}." if named else ""


def _steps(same: Sequence[dict[str, Any]]) -> int:
    return round(statistics.mean([int(p["steps"]) for p in same]))


def _score_key(point: dict[str, Any], kind: str) -> str | None:
    """The name of a metric in a point: "IS" is "IS (resnet56-cifar10, N=10000)" there."""
    return next((key for key in point["scores"] if key.split(" ")[0] == kind), None)


def _score(point: dict[str, Any], kind: str) -> dict[str, Any] | None:
    key = _score_key(point, kind)
    return None if key is None else point["scores"][key]


def _mean(point: dict[str, Any], kind: str) -> float:
    score = _score(point, kind)
    assert score is not None
    return float(score["mean"])


def _grouped(points: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        found.setdefault((point["family"], point["name"]), []).append(point)
    return found


def _over_seeds(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {statistics.stdev(values):.{digits}f}"


def _both_spreads(same: Sequence[dict[str, Any]], kind: str) -> str | None:
    """A cell of Table 4; None where the metric was not measured."""
    scores = [score for score in (_score(p, kind) for p in same) if score is not None]
    if not scores:
        return None
    digits = _DIGITS[kind]
    means, spreads = [s["mean"] for s in scores], [s["deviation"] for s in scores if s["deviation"] is not None]
    text = f"{statistics.mean(means):.{digits}f}"
    text += f" ± {statistics.mean(spreads):.{digits}f}" if spreads else ""
    return text if len(means) < 2 else f"{text} ({statistics.stdev(means):.{digits}f})"
