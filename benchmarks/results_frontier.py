"""What docs/results.md says of `frontier.py`: how small a trained autoencoder can get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import places
from frontier_ways import amount

#: Ways that choose among the same candidates, and the minutes for which they were compared.
_CHOICES, _SIDE_BY_SIDE = ("search", "greedy", "uniform"), 6
CURVES = places.IMAGES / "taef2-frontier.png"
_PHOTOGRAPHS = (
    "SinDDM's 15 pictures and the 27 photographs of Debian's packages `lomiri-wallpapers-16.04` and `mate-backgrounds` "
    "(nature), scaled down to 768 pixels"
)
_WAYS = {
    "search": "the plan of `prismify search`",
    "greedy": "a greedy plan",
    "uniform": "one candidate for all blocks",
    "narrow": "every width alike (policy `narrow`), the whole model alone",
    "widths": "the channels that `prismify search --widths` chooses, the whole model alone",
    "slim": "wide streams where images are small, blocks narrow inside (policy `narrow`, `--share PATTERN=S`)",
    "fitted": "the search's plan from closed-form starts, the whole model alone",
    "whole": "the search's plan from fresh weights, the whole model alone",
}


def frontier(rows: list[dict[str, Any]]) -> list[str]:
    """The section: a table of points, and PSNR against parameters."""
    first, plain = rows[0], [r for r in rows if all(change.startswith("loss=") for change in _extra(r))]
    searched = next((r for r in rows if r["rank_correlation"] is not None), None)
    draw(plain, CURVES)
    lines = [
        "",
        "## TAEF2, as small as it gets",
        "",
        f"TAEF2 ({first['original_parameters']:,} parameters) made smaller, and trained for the minutes of each row",
        "by the recipe `distil` on a CPU of two cores, on squares of 64×64 from",
        f"{_PHOTOGRAPHS}.",
        f"Measured on the {first['test_images']} photographs of the Kodak suite, which no search and no training saw.",
        "What counts is the image, with a fiftieth of the weight on latents near the original's, where the table says",
        "nothing else (`loss: {output: 0, latent: 0.02, image: 1}`). The last columns say how well each half serves",
        "beside the original's other half:",
        "PSNR of the small decoder on the original's latents, and the small encoder's squared error over the latents'",
        "variance. Rows of six minutes were trained two or three at a time, a thread each, on two cores: they compare",
        "with one another only, and their steps show how much of the machine each had.",
    ]
    if searched is not None:
        found = dict.fromkeys(f"{r['rank_correlation']:.3f}" for r in rows if r["rank_correlation"] is not None)
        ranked = " and ".join(found) + (" (searches of their own)" if len(found) > 1 else "")
        lines += [
            f"`prismify search` taught its candidates for {searched['search_minutes']:g} minutes before; its summed",
            f"scores rank 20 random choices as their errors do: {ranked}.",
        ]
    lines += [
        "",
        "| parameters | plan | changed | seed | minutes × threads | steps | PSNR | SSIM | LPIPS (alex) | decoder | "
        "latents |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| {first['original_parameters']:,} | the original | | | | | {_cells(first['original'])} | | |",
    ]
    for row in sorted(rows, key=lambda r: (-r["parameters"], list(_WAYS).index(r["way"]), r["seed"])):
        changes = ", ".join(f"`{change}`" for change in _extra(row))
        lines.append(
            f"| {row['parameters']:,} | {_WAYS[row['way']]} | {changes} | {row['seed']} | "
            f"{row['minutes']:g} × {_threads(row)} | {row['steps']:,} | {_cells(row)} | "
            f"{_number(row, 'decoder_psnr', 2)} | {_number(row, 'latent_error', 3)} |"
        )
    lines += ["", *_blocks_first(rows), *_choices(rows)]
    lines += [f"![PSNR on Kodak against parameters](images/{CURVES.name})", ""]
    for way, title in _WAYS.items():
        picture = places.IMAGES / f"taef2-{way}.png"
        points = sorted({r["parameters"] for r in plain if r["way"] == way and r.get("pictured", True)})
        if points and picture.is_file():
            counts = ", ".join(f"{count:,}" for count in points)
            lines += [
                f"From above: the middle of photographs, what the original makes of it, and {counts}",
                f"parameters ({title}):",
                "",
                f"![Kodak by {way}](images/{picture.name})",
                "",
            ]
    command = (
        "python benchmarks/frontier.py narrow --weights taef2 --data IMAGES ... --test kodak --lpips ALEX --runs RUNS"
    )
    return [*lines, f"    {command}"]


def _blocks_first(rows: list[dict[str, Any]]) -> list[str]:
    """What blocks taught by themselves are worth, against the whole model alone: same plan, time, seed, neighbours."""
    said = []
    for first in (r for r in rows if r["way"] == "search" and r["seed"] == 0):
        same = [r for r in rows if all(r.get(k) == first.get(k) for k in ("budget", "minutes", "jobs", "parameters"))]
        for way, start in (("whole", "fresh weights"), ("fitted", "closed-form starts")):
            pairs = {r["seed"]: r["PSNR"] for r in same if r["way"] == way}
            ours = sorted((r["seed"], r["PSNR"]) for r in same if r["way"] == "search" and r["seed"] in pairs)
            apart = [f"{decibels - pairs[seed]:+.2f}" for seed, decibels in ours]
            if apart:
                what = f"{first['parameters']:,} parameters, {first['minutes']:g} minutes"
                said.append(f"* {what}: {', '.join(apart)} dB over the whole model alone from {start} (a seed each).")
    return (
        ["Blocks by themselves first, then the whole model, beside the whole model alone:", "", *said, ""]
        if said
        else []
    )


def _choices(rows: list[dict[str, Any]]) -> list[str]:
    """The search beside other choices of the same candidates, wherever they were trained with the same seed."""
    said = []
    same = [r for r in rows if r["minutes"] == _SIDE_BY_SIDE and r["way"] in _CHOICES]
    for budget, seed in sorted({(r["budget"], r["seed"]) for r in same}, key=lambda one: (amount(one[0]), one[1])):
        found = {r["way"]: r for r in same if (r["budget"], r["seed"]) == (budget, seed)}
        if len(found) > 1:
            cells = [f"{found[w]['PSNR']:.2f} ({found[w]['steps']:,})" if w in found else "" for w in _CHOICES]
            said.append(f"| {budget} | {seed} | {' | '.join(cells)} |")
    head = [f"| budget | seed | {' | '.join(_CHOICES)} |", "|---|---:|" + "---:|" * len(_CHOICES)]
    text = [
        "The search beside other choices among the same taught candidates, PSNR after six minutes, in brackets the",
        "steps that these gave (the machine was not always as free):",
    ]
    return [*text, "", *head, *said, ""] if said else []


def preview(row: dict[str, Any]) -> list[str]:
    """The section on a decoder by itself."""
    count, psnr, times = row["parameters"], row["psnr"], row["milliseconds"]
    side = 8 * row["latents"][-1]
    return [
        "",
        "## A preview decoder for TAEF2's latents",
        "",
        "TAEF2's decoder narrowed, its streams wide where images are small, its blocks narrow inside (policy `narrow`,",
        f"`--share PATTERN=S`), the encoder left as it is; {row['minutes']:g} minutes of the recipe `distil` with",
        f"`loss: {{output: 1, latent: 0}}` on {row['hardware']}, {row['steps']:,} steps on the squares named above.",
        f"PSNR on Kodak, of what each makes of the original's latents; milliseconds for an image of {side}×{side}, the",
        f"median of turns on {row['threads']} threads.",
        "",
        "| decoder | parameters | PSNR to the images | PSNR to the original's | ms |",
        "|---|---:|---:|---:|---:|",
        f"| the original's | {count['original']:,} | {psnr['original']:.2f} | | {times['original']:.0f} |",
        f"| narrow | {count['small']:,} | {psnr['small']:.2f} | {psnr['small_to_original']:.2f} | "
        f"{times['small']:.0f} |",
        "",
        "From above: the middle of photographs, the original's decoder, the narrow one:",
        "",
        "![Kodak from the original's latents](images/taef2-preview.png)",
        "",
        "    python benchmarks/preview.py --weights taef2 --data IMAGES ... --test kodak --runs runs/preview",
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against parameters, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    for way, title in _WAYS.items():
        own = [r for r in rows if r["way"] == way and r["seed"] == 0]
        if own:
            points = sorted((r["parameters"], r["PSNR"]) for r in own)
            minutes = " to ".join(f"{m:g}" for m in sorted({r["minutes"] for r in own}))
            label = f"{title.replace('`', '')}; {minutes} minutes"
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, label=label)
    if rows:
        axes.axhline(rows[0]["original"]["PSNR"], color="0.6", linestyle="--", label="the original")
    axes.set(xlabel="parameters", ylabel="PSNR on Kodak, dB", xscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center", fontsize=8)
    figure.savefig(path, dpi=120)


def _extra(row: dict[str, Any]) -> list[str]:
    """What was changed on the command line, beyond what the way itself changes."""
    return [change for change in row["changes"] if not change.startswith("blocks=")]


def _threads(row: dict[str, Any]) -> int:
    """On how many a point was trained, from the machine's description."""
    return int(re.findall(r"(\d+) threads?", row["hardware"])[0])


def _cells(row: dict[str, float]) -> str:
    return f"{_number(row, 'PSNR', 2)} | {_number(row, 'SSIM', 3)} | {_number(row, 'LPIPS', 3)}"


def _number(row: dict[str, float], key: str, digits: int) -> str:
    """A measurement; nothing where it was not made."""
    return f"{row[key]:.{digits}f}" if key in row else ""
