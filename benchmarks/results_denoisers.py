"""The sections of docs/results.md on denoisers, from the JSON that their benchmarks leave."""

from __future__ import annotations

from pathlib import Path
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
        *_threads(first["hardware"]),
        "Time layers stay as they are, and are counted. The error is that on held-out images; the last column is",
        "measured on two threads.",
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
    curve = places.IMAGES / f"{task}-error.png"
    draw_errors(rows, curve)
    lines += [f"![The error on held-out images over the minutes of training](images/{curve.name})", ""]
    for row in rows:
        picture = places.samples_picture(task, row["name"], row["seed"])
        if picture.is_file():
            text = f"{row['name']}, seed {row['seed']}: the ten classes in turn"
            lines += [f"![{text}](images/{picture.name})", ""]
    return [*lines, f"    python benchmarks/diffusion.py {task} --data TRAIN --test TEST --features NETWORK"]


def _threads(hardware: str) -> list[str]:
    """How runs of one thread shared the machine."""
    if not hardware.startswith("CPU, 1 thread"):
        return []
    return ["The two models of a seed trained side by side, a thread each, so that whatever else ran met both alike."]


def draw_errors(rows: list[dict[str, Any]], path: Path) -> None:
    """The held-out error of a task's runs over the minutes of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(r["name"] for r in rows))
    for row in rows:
        style = "--" if row["name"] == "dense" else "-"
        label = f"{row['name']}, seed {row['seed']}: {row['parameters']:,} parameters"
        minutes, errors = zip(*row["held_out"], strict=True)
        axes.plot(minutes, errors, style, color=f"C{names.index(row['name'])}", label=label, marker=".", ms=3)
    axes.set(xlabel="minutes of training", ylabel="error on held-out images")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def settings(rows: list[dict[str, Any]]) -> list[str]:
    """The section on what was tried with the denoiser of digits."""
    first = rows[0]
    lines = [
        "",
        "### What was tried with it",
        "",
        f"Short runs on {first['hardware']}, two at a time side by side, seed {first['seed']}: what takes the layers'",
        "places, the learning rate (and a factor on it for the new kernels), images a step.",
        "",
        "| becomes | parameters | learning rate | batch | steps | seconds | error on held-out images |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda r: list(r["errors"].values())[-1]):
        rate = f"{row['learning_rate']:g}" + (f" × {row['kernel_rate']:g}" if row["kernel_rate"] != 1 else "")
        lines.append(
            f"| {_becomes(row['convert'])} | {row['parameters']:,} | {rate} | {row['batch_size']} | {row['steps']:,} | "
            f"{row['seconds']:.0f} | {list(row['errors'].values())[-1]:.4f} |"
        )
    return lines


def _becomes(policy: dict[str, Any]) -> str:
    if policy["operator"] is not None:
        return f"`{policy['operator']}`, " + ", ".join(f"{k} {v}" for k, v in policy["options"].items())
    layers = ", ".join(f"of {depth} in `{pattern}`" for pattern, depth in policy["depths"].items())
    kept = ", ".join(f"`{pattern}`" for pattern in policy["exclude"])
    return f"volumes of {policy['depth']}" + (f", {layers}" if layers else "") + (f", {kept} dense" if kept else "")


def taught(rows: list[dict[str, Any]]) -> list[str]:
    """The sections on distillation: what each term is worth, and how small a student can be."""
    teacher = next(row for row in rows if row["name"] == "teacher")
    terms, sizes = ([row for row in rows if row.get("kind") == kind] for kind in ("terms", "sizes"))
    lines = []
    if terms:
        lines += [
            "",
            "## A denoiser taught by its original: what each term is worth",
            "",
            "BrianPulfer's DDPM of MNIST's digits (28×28), converted by policy `volumes` and trained for",
            f"{terms[0]['minutes']:g} minutes on {terms[0]['hardware']} with the recipe `diffusion`, learning from the",
            "data (`task`), from what the teacher predicts (`output`), or from what its modules return (`features`).",
            *_taught_table("learned from", teacher, terms),
            "The teacher lets the mean of some pictures drift, which gives them a grey ground, in a thousand steps of",
            "DDPM as well; the students were stopped long before they were done, as their pictures show.",
            "",
            *_taught_pictures(["teacher", *(row["name"] for row in terms)]),
        ]
    if sizes:
        lines += [
            "",
            "## The same denoiser, as small as it gets",
            "",
            "Students that start nearest to the teacher in closed form (`distil.fitted`; for 27 weights there is none)",
            f"and learn its output for {sizes[0]['minutes']:g} minutes on {sizes[0]['hardware']}. 100,000 of the",
            "parameters are the table of times, in every one of them.",
            *_taught_table("student", teacher, sorted(sizes, key=lambda r: -r["parameters"])),
            *_taught_pictures([row["name"] for row in sizes]),
        ]
    command = "python benchmarks/teach_denoiser.py --weights ddpm_mnist.pt --data train.npz --test test.npz"
    return [*lines, f"    {command} --features lenet.pth"]


def _taught_table(title: str, teacher: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    metrics = list(teacher["metrics"])
    network = metrics[0][metrics[0].find("(") :].strip("()")
    titles = " | ".join(name.split(" (")[0] for name in metrics)
    lines = [
        f"{rows[0]['count']:,} pictures of each in 100 steps of DDPM, against the 10,000 test images, by {network};",
        f"seed {rows[0]['seed']}.",
        "",
        f"| {title} | parameters | steps | error on held-out images | error to the teacher | {titles} |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(metrics)}",
    ]
    for row in (teacher, *rows):
        cells = [_measured(row["metrics"].get(name)) for name in metrics]
        told = [f"{row[key]:.4f}" if key in row else "" for key in ("error", "error_to_teacher")]
        steps = f"{row['steps']:,}" if "steps" in row else ""
        lines.append(f"| {row['name']} | {row['parameters']:,} | {steps} | {' | '.join([*told, *cells])} |")
    return [*lines, ""]


def _taught_pictures(names: list[str]) -> list[str]:
    lines = []
    for name in names:
        path = places.taught_picture(name)
        if path.is_file():
            lines += [f"![pictures of: {name}](images/{path.name})", ""]
    return lines


def single(rows: list[dict[str, Any]]) -> list[str]:
    """The section on models of one picture."""
    first, metrics = rows[0], list(rows[0]["metrics"])
    lines = [
        "",
        "## One picture: SinDDM's network and the paper's, in equal time",
        "",
        "SinDDM's own network (`dense`) and that of Sec. 4.2 (`converted`), each trained on one picture of SinDDM's,",
        f"made smaller to {first['pixels']:,} pixels, for {first['minutes']:g} minutes on {first['hardware']}, in",
        "batches of 2; SinDDM itself trains for 120,000 steps of 32 on a GPU.",
        *_threads(first["hardware"]),
        f"{first['count']} samples of each: {', '.join(metrics)}.",
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
