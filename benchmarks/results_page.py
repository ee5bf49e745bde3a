"""docs/results.md and its curves, from the JSON that `gap.py` and `distil.py` leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GAP = ROOT / "benchmarks" / "results" / "gap-cpu.json"
DISTILLED = ROOT / "benchmarks" / "results" / "distil-cpu.json"
DIFFUSION = ROOT / "benchmarks" / "results" / "diffusion-cpu.json"
TAUGHT = ROOT / "benchmarks" / "results" / "teach-denoiser-cpu.json"
IMAGES = ROOT / "docs" / "images"
#: Runs at least this long are results, shorter ones a search.
FINAL_MINUTES = 10
_HEAD = ["changed in `cifar10-fast` | seed | steps | PSNR | SSIM |", "---|---:|---:|---:|---:|"]


def write() -> None:
    """Write the page and draw the curves, as far as there are results."""
    rows = json.loads(GAP.read_text()) if GAP.is_file() else []
    final = [r for r in rows if r["minutes"] >= FINAL_MINUTES]
    lines = ["# Results", ""]
    if final:
        draw(final, IMAGES / "gap.png")
        lines = [*introduction(final[0]), *equal_time(final)]
    for minutes in sorted({r["minutes"] for r in rows if r["minutes"] < FINAL_MINUTES}):
        lines += settings([r for r in rows if r["minutes"] == minutes])
    if DISTILLED.is_file():
        lines += distilled(json.loads(DISTILLED.read_text()))
    if DIFFUSION.is_file():
        lines += denoised(json.loads(DIFFUSION.read_text()))
    if TAUGHT.is_file():
        lines += taught(json.loads(TAUGHT.read_text()))
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n")


def introduction(row: dict[str, Any]) -> list[str]:
    return [
        "# Results",
        "",
        "Written by `python benchmarks/gap.py` and `python benchmarks/distil.py` from runs that were made, on",
        f"{row['hardware']}, torch {row['versions']['torch']}.",
        "The paper's C = 256, which takes a GPU, has not been trained, and neither has the adversarial stage.",
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


def denoised(rows: list[dict[str, Any]]) -> list[str]:
    first = rows[0]
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    titles = [name.split(" (")[0] for name in metrics]
    network = metrics[0][metrics[0].find("(") :] if metrics else ""
    lines = [
        "",
        "## Digits from noise: a converted denoiser beside the dense one, in equal time",
        "",
        "MNIST's pixels at 32×32, class-conditional, a UNet of C = 64 and three levels, the recipe `mnist-ddpm`:",
        f"{first['minutes']:g} minutes each on {first['hardware']}, torch {first['versions']['torch']}.",
        f"{first['count']:,} pictures of each in 50 steps of DDIM, without guidance, against the 10,000 test images;",
        f"the features are those of {network.strip('()')}, and compare with nothing but themselves.",
        "Time layers stay as they are, and are counted. The error is that on held-out images.",
        "",
        f"| model | parameters | time layers | seed | images | error | {' | '.join(titles)} | 64 pictures, s |",
        f"|---|---:|---:|---:|---:|---:|{'---:|' * len(titles)}---:|",
    ]
    for row in sorted(rows, key=lambda r: (-r["parameters"], r["name"], r["seed"])):
        error = f"{row['held_out'][-1][1]:.4f}" if row["held_out"] else ""
        cells = [_measured(row["metrics"].get(name)) for name in metrics]
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['time_parameters']:,} | {row['seed']} | {row['images']:,} "
            f"| {error} | {' | '.join(cells)} | {row['sampling_seconds']:.1f} |"
        )
    lines += [""]
    for row in rows:
        picture = IMAGES / f"mnist-{row['name'].replace(' ', '-')}-{row['seed']}.png"
        if picture.is_file():
            lines += [f"![{row['name']}, seed {row['seed']}: digits 0 to 9 in turn](images/{picture.name})", ""]
    return [*lines, "    python benchmarks/diffusion.py --data train.npz --test test.npz --features lenet.pth"]


def taught(rows: list[dict[str, Any]]) -> list[str]:
    first, metrics = rows[1], list(rows[0]["metrics"])
    network = metrics[0][metrics[0].find("(") :].strip("()")
    titles = " | ".join(name.split(" (")[0] for name in metrics)
    lines = [
        "",
        "## A denoiser taught by its original: what each term is worth",
        "",
        "BrianPulfer's DDPM of MNIST's digits (28×28), converted by policy `volumes` and trained for",
        f"{first['minutes']:g} minutes on {first['hardware']} with the recipe `diffusion`, seed {first['seed']},",
        "learning from the data (`task`), from what the teacher predicts (`output`), or from what its modules",
        "return (`features`).",
        f"{first['count']:,} pictures of each in 100 steps of DDPM, against the 10,000 test images, by {network}.",
        "",
        f"| learned from | parameters | steps | error on held-out images | error to the teacher | {titles} |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(metrics)}",
    ]
    for row in rows:
        cells = [_measured(row["metrics"].get(name)) for name in metrics]
        told = [f"{row[key]:.4f}" if key in row else "" for key in ("error", "error_to_teacher")]
        steps = f"{row['steps']:,}" if "steps" in row else ""
        lines.append(f"| {row['name']} | {row['parameters']:,} | {steps} | {' | '.join([*told, *cells])} |")
    command = "python benchmarks/teach_denoiser.py --weights ddpm_mnist.pt --data train.npz --test test.npz"
    return [*lines, "", f"    {command} --features lenet.pth"]


def _measured(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    text = f"{value['mean']:.4g}"
    return text if value.get("deviation") is None else f"{text} ± {value['deviation']:.2g}"


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
