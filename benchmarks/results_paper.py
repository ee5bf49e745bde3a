"""What docs/results.md says of `paper.py`: the paper's tables beside ours."""

from __future__ import annotations

from typing import Any

import places

from prismify.paper import Table
from prismify.paper.budgets import BUDGETS
from prismify.paper.figure import draw_figure_1, figure_1, table_4
from prismify.paper.methods import table_4_methods


def trained(points: list[dict[str, Any]]) -> list[str]:
    """Figure 1, and below it Table 4 from the same points; nothing until DeepPrism stands beside another method."""
    if all(p["family"].startswith("DeepPrism") for p in points):
        return []
    draw_figure_1(points, places.FIGURE_1)
    names = {(m.family, m.name) for m in table_4_methods(BUDGETS["laptop"])}
    own = [p for p in points if (p["family"], p["name"]) in names]
    return [
        *_section(figure_1(points)),
        "",
        f"![PSNR against parameters](images/{places.FIGURE_1.name})",
        *(_section(table_4(own)) if own else []),
        "",
        "    python benchmarks/paper.py points --data TRAIN --test TEST --lpips ALEX --features RESNET --runs RUNS",
    ]


def rates(rows: list[dict[str, Any]]) -> list[str]:
    """What the learning rates of Figure 1's other methods were chosen by."""
    columns = sorted({row["rate"] for row in rows})
    found = {(row["method"], row["rate"]): row["psnr"] for row in rows}
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [found.get((method, rate)) for rate in columns]
        best = max(value for value in own if value is not None)
        cells = ["" if v is None else f"**{v:.2f}**" if v == best else f"{v:.2f}" for v in own]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    first = rows[0]
    return [
        "",
        "### Learning rates of the other methods",
        "",
        f"PSNR after {first['minutes']:g} minutes on {first['hardware']}, {first['images']:,} test images, seed",
        f"{first['seed']}, {first['date']}: each family trains for Figure 1 at its best.",
        "",
        f"| method | {' | '.join(f'{rate:g}' for rate in columns)} |",
        f"|---|{'---:|' * len(columns)}",
        *lines,
        "",
        "    python benchmarks/paper.py rates --data TRAIN --test TEST --runs RUNS",
    ]


def table(data: dict[str, Any]) -> list[str]:
    """A table that was measured."""
    rows = tuple(tuple(row.values()) for row in data["rows"])
    made = Table(data["name"], data["title"], tuple(data["columns"]), rows, tuple(data["notes"]))
    return [*_section(made), "", f"    {data['command']}"]


def adversarial(rows: list[dict[str, Any]]) -> list[str]:
    """The stage with LPIPS and the hinge loss: a row for each run, and what they make of the same images."""
    first, *runs = rows
    metrics = list(first["scores"])
    lines = [
        "",
        "## The adversarial stage",
        "",
        f"`cifar10-ae-64` learns on for {runs[0]['minutes']:g} minutes by the recipe `cifar10-fast` with what a row",
        f"says, on {runs[0]['hardware']}, torch {runs[0]['versions']['torch']}, {runs[0]['date']}; measured on",
        f"{first['images']:,} test images. It learns by LPIPS of VGG-16 and is measured by that of AlexNet.",
        "The last columns are means over the last fifth of the steps: the discriminator's hinge loss (1 where it tells",
        "nothing apart, 0 where it tells all), and its logits on originals and on reconstructions.",
        "",
        f"| stage | seed | steps | {' | '.join(metrics)} | hinge | real | made |",
        f"|---|---:|---:|{'---:|' * (len(metrics) + 3)}",
    ]
    for row in rows:
        cells = [_of(row["scores"].get(metric)) for metric in metrics]
        last = row.get("last_fifth", {})
        judged = [f"{last[t]:.2f}" if t in last else "" for t in ("discriminator", "logits_real", "logits_fake")]
        seed, steps = ("", "") if row["seed"] is None else (str(row["seed"]), f"{row['steps']:,}")
        lines.append(f"| {row['name']} | {seed} | {steps} | {' | '.join([*cells, *judged])} |")
    names = ["the images", *(r["name"] if r["seed"] is None else f"{r['name']} (seed {r['seed']})" for r in rows)]
    return [
        *lines,
        "",
        *_over_seeds(rows),
        "",
        f"From above: {', '.join(names)}:",
        "",
        f"![Test images before and after](images/{places.ADVERSARIAL_PICTURE.name})",
        "",
        "    python benchmarks/adversarial.py --data TRAIN --test TEST --vgg VGG --alex ALEX --features F --runs RUNS",
    ]


def _over_seeds(rows: list[dict[str, Any]]) -> list[str]:
    """What seeds of a stage have in common, and how far they lie apart."""
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows if row["seed"] is not None):
        own = [row for row in rows if row["name"] == name]
        ranges = []
        for metric in rows[0]["scores"]:
            values = [row["scores"][metric]["mean"] for row in own]
            ranges.append(f"{metric.partition(' (')[0]} {min(values):.4g} to {max(values):.4g}")
        worst = min(last - first for (_, first), *_, (_, last) in (row["held_out"] for row in own))
        lines.append(
            f"* {name}, {len(own)} seeds: {', '.join(ranges)}. From the first measurement on held-out images to "
            f"the last, PSNR changes by {worst:+.2f} dB at worst."
        )
    return lines


def shards(row: dict[str, Any]) -> list[str]:
    """ImageNet's recipe on shards."""
    speeds = ", ".join(f"{name}: {value:.2f}" for name, value in row["images_per_second"].items())
    return [
        "",
        "## ImageNet's recipe on WebDataset shards",
        "",
        f"The recipe `imagenet256` at C = {row['width']} ({row['parameters']:,} parameters), {row['steps']} steps of",
        f"{row['batch']} images of 256×256, random crops of {row['pictures']} pictures in {row['shards']} shards, in",
        f"{row['processes']} processes on {row['hardware']} each, torch {row['versions']['torch']}, {row['date']},",
        f"seed {row['seed']}. Images a second, by what the step learns from: {speeds}. All processes together held",
        f"{row['most_gib']:.1f} GiB at most. A run stopped by a signal at step {row['stopped_at']} and started again",
        f"ended with {'the same weights, to the bit' if row['same_weights'] else 'other weights'}.",
        "",
        f"    {row['command']}",
    ]


def _of(score: dict[str, Any] | None) -> str:
    return "" if score is None else f"{score['mean']:.4g}"


def _section(made: Table) -> list[str]:
    return ["", *f"#{made.markdown()}".splitlines()]
