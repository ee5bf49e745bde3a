"""docs/results.md and its curves, from the JSON that the benchmarks leave."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import places
import results_denoisers
import results_frontier
import results_paper

#: Runs at least this long are results, shorter ones a search.
FINAL_MINUTES = 10
_HEAD = ["changed in `cifar10-fast` | seed | steps | PSNR | SSIM |", "---|---:|---:|---:|---:|"]


def write() -> None:
    """Write the page and draw the curves, as far as there are results."""
    rows = json.loads(places.GAP.read_text()) if places.GAP.is_file() else []
    final = [r for r in rows if r["minutes"] >= FINAL_MINUTES]
    lines = ["# Results", ""]
    if final:
        draw(final, places.IMAGES / "gap.png")
        lines = [*introduction(final[0]), *equal_time(final)]
    for minutes in sorted({r["minutes"] for r in rows if r["minutes"] < FINAL_MINUTES}):
        same = [r for r in rows if r["minutes"] == minutes]
        lines += over_seeds(same) if any(r["seed"] for r in same) else settings(same)
    if places.DISTILLED.is_file():
        lines += distilled(json.loads(places.DISTILLED.read_text()))
    if places.FRONTIER.is_file():
        lines += results_frontier.frontier(json.loads(places.FRONTIER.read_text()))
    if places.PREVIEW.is_file():
        lines += results_frontier.preview(json.loads(places.PREVIEW.read_text()))
    if places.DIFFUSION.is_file():
        rows = json.loads(places.DIFFUSION.read_text())
        for task in dict.fromkeys(r["task"] for r in rows):
            lines += results_denoisers.denoised(task, [r for r in rows if r["task"] == task])
    if places.SETTINGS.is_file():
        lines += results_denoisers.settings(json.loads(places.SETTINGS.read_text()))
    if places.TAUGHT.is_file():
        lines += results_denoisers.taught(json.loads(places.TAUGHT.read_text()))
    if places.SINGLE.is_file():
        lines += results_denoisers.single(json.loads(places.SINGLE.read_text()))
    if places.POINTS.is_file():
        lines += results_paper.trained(json.loads(places.POINTS.read_text()))
    if places.RATES.is_file():
        lines += results_paper.rates(json.loads(places.RATES.read_text()))
    if places.TABLE_2.is_file():
        lines += results_paper.table(json.loads(places.TABLE_2.read_text()))
    if places.ADVERSARIAL.is_file():
        lines += results_paper.adversarial(json.loads(places.ADVERSARIAL.read_text()))
    if places.SHARDS.is_file():
        lines += results_paper.shards(json.loads(places.SHARDS.read_text()))
    (places.ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n")


def introduction(row: dict[str, Any]) -> list[str]:
    return [
        "# Results",
        "",
        "Written by `python benchmarks/gap.py` and `python benchmarks/distil.py` from runs that were made, on",
        f"{row['hardware']}, torch {row['versions']['torch']}.",
        "The paper's C = 256, which takes a GPU, has not been trained.",
        "",
        f"**The images are {row['data']}**, for training and for measuring: decibels here compare with",
        "one another, not with those of other work.",
    ]


def equal_time(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "",
        "## A converted autoencoder beside the dense one, in equal time",
        "",
        "The autoencoder of Sec. 4.1 at C = 64: three levels, 8×8×3 latents. All train for",
        f"{rows[0]['minutes']:g} minutes with the recipe `cifar10-fast` (squared error, Adam, cosine schedule by the",
        "clock, averaged weights, residual branches that start as nothing), the dense one at learning rates of its",
        f"own. PSNR and SSIM are means over {max(r['images'] for r in rows):,} test images, ± their deviation.",
        "",
        f"| model | parameters | {_HEAD[0]}",
        f"|---|---:|{_HEAD[1]}",
        *(_row(r) for r in sorted(rows, key=lambda r: (-r["parameters"], r["name"], r["seed"]))),
        "",
        *_verdict(rows),
        "",
        "![PSNR of held-out images over the minutes of training](images/gap.png)",
        "",
        "    python benchmarks/gap.py NAME ... --data train.npz --test test.npz --minutes 10 --seeds 0 1",
        "",
        "trains and measures rows again; `prismify train cifar10-fast --set data.path=train.npz` the converted one.",
        'The best of the converted models comes with prismify: `prismify.load("cifar10-ae-64")`.',
    ]


def settings(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "",
        "## What each setting is worth",
        "",
        f"One change at a time, {rows[0]['minutes']:g} minutes a run, {min(r['images'] for r in rows):,} test images.",
        "In so short a run, what makes a step slower must earn it back soon; over hours the order may be another.",
        "Each row is one seed, and a run may rest near 22.8 dB for minutes before it goes on (the curves above show",
        "one that does), so that differences of less than a decibel may be chance here.",
        "",
        f"| | parameters | {_HEAD[0]}",
        f"|---|---:|{_HEAD[1]}",
        *(_row(r) for r in sorted(rows, key=lambda r: -r["psnr"]["mean"])),
    ]


def over_seeds(rows: list[dict[str, Any]]) -> list[str]:
    """Changes that were trained by several seeds: each beside what was not changed, seed by seed."""
    names = dict.fromkeys(r["name"] for r in rows)
    found = {n: {r["seed"]: r for r in rows if r["name"] == n} for n in names}
    psnr = {n: {s: r["psnr"]["mean"] for s, r in of.items()} for n, of in found.items()}
    lines = []
    for name in sorted(names, key=lambda n: -statistics.mean(psnr[n].values())):
        own, base = psnr[name], psnr["default"]
        first = next(iter(found[name].values()))
        steps = round(statistics.mean(r["steps"] for r in found[name].values()))
        gains = [f"{own[s] - base[s]:+.2f}" for s in sorted(own) if s in base and name != "default"]
        spread = f" ± {statistics.stdev(own.values()):.2f}" if len(own) > 1 else ""
        lines.append(
            f"| {name} | {first['parameters']:,} | {', '.join(f'`{c}`' for c in first['changes']) or 'nothing'} | "
            f"{len(own)} | {steps:,} | {statistics.mean(own.values()):.2f}{spread} | {', '.join(gains)} |"
        )
    first = rows[0]
    return [
        "",
        "## Distant channels, and gains: from scratch",
        "",
        f"Changes of the operator that cost next to nothing, {first['minutes']:g} minutes a run on",
        f"{first['hardware']}, {first['images']:,} test images; two runs at a time, a thread each. ± is the deviation",
        "over seeds; the last column is what each seed gains over the unchanged recipe. Operators other than the",
        "paper's leave the attention's projections dense, which their parameters show. What does not gain in every",
        "seed stays out of the recipe; a run that loses more than a decibel rests where others have left (near",
        "23.2 dB) until its time is up.",
        "",
        "| | parameters | changed in `cifar10-fast` | seeds | steps | PSNR | by seed, dB |",
        "|---|---:|---|---:|---:|---:|---:|",
        *lines,
    ]


def distilled(row: dict[str, Any]) -> list[str]:
    parts = (("teacher", "the original, the teacher"), ("before", "converted, untrained"), ("after", "distilled"))
    return [
        "",
        "## TAEF2, distilled",
        "",
        "The tiny autoencoder for FLUX.2's latents (madebyollin's TAEF2), converted and taught by its original for",
        f"{row['minutes']:g} minutes on {row['hardware']}, on {row['trained_on']} squares cut from",
        f"SinDDM's 15 pictures, and measured on the {row['test_images']} photographs of the Kodak suite, which it has",
        f"not seen: {row['steps']:,} steps, seed {row['seed']}.",
        "",
        "| | parameters | PSNR | SSIM |",
        "|---|---:|---:|---:|",
        *(
            f"| {title} | {row['parameters'][name]:,} | {_both({k: row[k][name] for k in ('psnr', 'ssim')})} |"
            for name, title in parts
        ),
        "",
        *(f"    {command}" for command in row["commands"]),
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR of held-out images over the minutes of the long runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(sorted({r["name"] for r in rows})):
        label = f"{name}: {next(r['parameters'] for r in rows if r['name'] == name):,} parameters"
        style = "--" if name.startswith("dense") else "-"
        for row in (r for r in rows if r["name"] == name):
            axes.plot(*zip(*row["curve"], strict=True), style, color=f"C{number}", label=label, marker=".", ms=3)
            label = "_"  # one entry for all seeds
    axes.set(xlabel="minutes of training", ylabel="PSNR of held-out images, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _row(row: dict[str, Any]) -> str:
    changes = ", ".join(f"`{change}`" for change in row["changes"]) or "nothing"
    return f"| {row['name']} | {row['parameters']:,} | {changes} | {row['seed']} | {row['steps']:,} | {_both(row)} |"


def _both(row: dict[str, Any]) -> str:
    return f"{_spread(row['psnr'], 2)} | {_spread(row['ssim'], 3)}"


def _spread(value: dict[str, float], digits: int) -> str:
    return f"{value['mean']:.{digits}f} ± {value['deviation']:.{max(1, digits - 1)}f}"


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Which is better, and by how much: means over seeds of the best dense and the best converted row."""
    names = dict.fromkeys(r["name"] for r in rows)
    found = {n: [r for r in rows if r["name"] == n] for n in names}
    means = {n: sum(r["psnr"]["mean"] for r in same) / len(same) for n, same in found.items()}
    dense, ours = ([n for n in names if n.startswith("dense") == is_dense] for is_dense in (True, False))
    if not dense or not ours:
        return []
    first, second = max(ours, key=means.__getitem__), max(dense, key=means.__getitem__)
    ratio = found[second][0]["parameters"] / found[first][0]["parameters"]
    gap = means[first] - means[second]
    return [
        f"With 1/{ratio:.0f} of the parameters, the converted model ({first}, {means[first]:.2f} dB over "
        f"{len(found[first])} seeds) is",
        f"{abs(gap):.2f} dB {'above' if gap >= 0 else 'below'} the best dense one "
        f"({second}, {means[second]:.2f} dB over {len(found[second])}).",
    ]
