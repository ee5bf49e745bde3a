"""What docs/results.md says of `frontier.py`: how small a trained autoencoder can get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import places

CURVES = places.IMAGES / "taef2-frontier.png"
_WAYS = {
    "search": "the plan of `prismify search`",
    "greedy": "a greedy plan",
    "uniform": "one candidate for all blocks",
    "narrow": "every width alike (policy `narrow`), the whole model alone",
    "fitted": "the search's plan from closed-form starts, the whole model alone",
    "whole": "the search's plan from fresh weights, the whole model alone",
}


def frontier(rows: list[dict[str, Any]]) -> list[str]:
    """The section: a table of points, and PSNR against parameters."""
    first, plain = rows[0], [r for r in rows if not _extra(r)]
    draw(plain, CURVES)
    lines = [
        "",
        "## TAEF2, as small as it gets",
        "",
        f"What `prismify search` makes of TAEF2 ({first['original_parameters']:,} parameters), after",
        f"{first['search_minutes']:g} minutes of teaching candidates, and then {first['minutes']:g} minutes a point by",
        f"the recipe `distil` on {first['hardware']}, on squares of SinDDM's 15 pictures; measured on the",
        f"{first['test_images']} photographs of the Kodak suite, which neither search nor training has seen. Summed",
        f"scores rank 20 random choices as their errors do: {first['rank_correlation']:.3f}.",
        "",
        "| parameters | plan | changed | seed | minutes | steps | PSNR | SSIM | LPIPS (alex) |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|",
        f"| {first['original_parameters']:,} | the original | | | | | {_cells(first['original'])} |",
    ]
    for row in sorted(rows, key=lambda r: (-r["parameters"], list(_WAYS).index(r["way"]), r["seed"])):
        changes = ", ".join(f"`{change}`" for change in _extra(row))
        lines.append(
            f"| {row['parameters']:,} | {_WAYS[row['way']]} | {changes} | {row['seed']} | {row['minutes']:g} | "
            f"{row['steps']:,} | {_cells(row)} |"
        )
    lines += ["", f"![PSNR on Kodak against parameters](images/{CURVES.name})", ""]
    for row in plain:
        picture = places.IMAGES / f"taef2-{row['way']}-{row['budget']}.png"
        if row["way"] == "search" and picture.is_file():
            lines += [
                f"From above: photographs, what the original makes of them, and {row['parameters']:,} parameters:",
                "",
                f"![Kodak at {row['budget']}](images/{picture.name})",
                "",
            ]
    return lines


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against parameters, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for way, title in _WAYS.items():
        points = sorted((r["parameters"], r["PSNR"]) for r in rows if r["way"] == way)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, label=title.replace("`", ""))
    if rows:
        axes.axhline(rows[0]["original"]["PSNR"], color="0.6", linestyle="--", label="the original")
    axes.set(xlabel="parameters", ylabel="PSNR on Kodak, dB", xscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _extra(row: dict[str, Any]) -> list[str]:
    """What was changed on the command line, beyond what the way itself changes."""
    return [change for change in row["changes"] if not change.startswith("blocks=")]


def _cells(row: dict[str, float]) -> str:
    return f"{row['PSNR']:.2f} | {row['SSIM']:.3f} | {row['LPIPS']:.3f}"
