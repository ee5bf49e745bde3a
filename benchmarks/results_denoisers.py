"""The sections of docs/results.md on denoisers, from the JSON that their benchmarks leave."""

from __future__ import annotations

from typing import Any

import places

#: Task of diffusion.py -> its title, and what it is.
_TASKS = {
    "mnist": (
        "Digits from noise: a converted denoiser beside the dense one, in equal time",
        "MNIST's pixels at 32×32, class-conditional, a UNet of C = 64 and three levels, the recipe `mnist-ddpm`:",
        "the 10,000 test images",
    ),
    "cifar10": (
        "CIFAR-10 by the latents of `cifar10-ae-64`, converted and dense, in equal time",
        "8×8×3 latents of **JPEG** images, class-conditional, a UNet of C = 128, the recipe `cifar10-ldm`:",
        "the 10,000 test images (JPEG)",
    ),
}


def denoised(task: str, rows: list[dict[str, Any]]) -> list[str]:
    """The section on a task's models."""
    first, (title, what, references) = rows[0], _TASKS[task]
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    titles = [name.split(" (")[0] for name in metrics]
    network = metrics[0][metrics[0].find("(") :] if metrics else ""
    lines = [
        "",
        f"## {title}",
        "",
        what,
        f"{first['minutes']:g} minutes each on {first['hardware']}, torch {first['versions']['torch']}.",
        f"{first['count']:,} pictures of each in 50 steps of DDIM, without guidance, against {references};",
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
        picture = places.samples_picture(task, row["name"], row["seed"])
        if picture.is_file():
            text = f"{row['name']}, seed {row['seed']}: the ten classes in turn"
            lines += [f"![{text}](images/{picture.name})", ""]
    return [*lines, f"    python benchmarks/diffusion.py {task} --data TRAIN --test TEST --features NETWORK"]


def taught(rows: list[dict[str, Any]]) -> list[str]:
    """The section on what each term of a distillation is worth."""
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


def single(rows: list[dict[str, Any]]) -> list[str]:
    """The section on models of one picture."""
    first, metrics = rows[0], list(rows[0]["metrics"])
    lines = [
        "",
        "## One picture: SinDDM's network and the paper's, in equal time",
        "",
        "SinDDM's own network (`dense`) and that of Sec. 4.2 (`converted`), each trained on one picture of SinDDM's,",
        f"made smaller to {first['pixels']:,} pixels, for {first['minutes']:g} minutes on {first['hardware']}; SinDDM",
        f"itself trains for 120,000 steps on a GPU. {first['count']} samples of each: {', '.join(metrics)}.",
        "",
        f"| picture | model | parameters | steps | {' | '.join(name.split(' (')[0] for name in metrics)} |",
        f"|---|---|---:|---:|{'---:|' * len(metrics)}",
    ]
    for row in sorted(rows, key=lambda r: (r["picture"], -r["parameters"])):
        cells = " | ".join(_measured(row["metrics"].get(name)) for name in metrics)
        lines.append(f"| {row['picture']} | {row['name']} | {row['parameters']:,} | {row['steps']:,} | {cells} |")
    lines += ["", "Below, of each: the picture; samples of the converted model; samples of the dense one.", ""]
    for picture in dict.fromkeys(r["picture"] for r in rows):
        path = places.IMAGES / f"single-{picture}.png"
        if path.is_file():
            lines += [f"![{picture}, converted, dense](images/{path.name})", ""]
    return [*lines, "    python benchmarks/single_image.py PICTURE ... --lpips lpips_alexnet.safetensors"]


def _measured(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    text = f"{value['mean']:.4g}"
    return text if value.get("deviation") is None else f"{text} ± {value['deviation']:.2g}"
