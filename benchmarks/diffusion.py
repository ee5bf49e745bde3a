"""Train a denoiser and its conversion in equal time, sample both, and measure the samples.

    python benchmarks/diffusion.py mnist --data TRAIN.npz --test TEST.npz --features LENET.pth [--minutes 20]
    python benchmarks/diffusion.py cifar10 --data FOLDER --test FOLDER --features RESNET.th [--seeds 0 1]

trains the recipe `mnist-ddpm` or `cifar10-ldm` converted and dense, samples --count pictures of each, judges them
against the test images, times sampling, and writes benchmarks/results/diffusion-cpu.json, docs/images/TASK-*.png and
the page (`results_page.py`). Runs lie in --runs, and one that is there is not made again: a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import places
import results_page
import yaml
from command import run

from prismify.diffusion.making import Wanted, make_pictures
from prismify.diffusion.opening import open_denoiser
from prismify.facts import parameter_count
from prismify.training.models import fuse_if
from prismify.training.pictures import sheet, write_png

RESULTS = places.DIFFUSION
_DENSE = ["model.convert=null", "train.fuse=false", "train.learning_rate=5e-4"]


@dataclass(frozen=True)
class Task:
    """What is trained, and how its samples are judged.

    Args:
        recipe: its name.
        rows: row -> what it changes in the recipe.
        size: of the pictures that are judged.
        channels: of theirs.
        latents: whether the runs share a folder of latents.
    """

    recipe: str
    rows: dict[str, list[str]]
    size: int
    channels: int
    latents: bool = False


TASKS = {
    "mnist": Task(
        "mnist-ddpm",
        {
            "converted": [],
            "dense": _DENSE,
            "27 weights a layer": ["model.convert={name: volumes}"],
            "volumes of 16": ["model.convert={name: volumes, depth: 16}"],
            "flow": ["noise.prediction=flow"],
            "epsilon, linear": ["noise.prediction=epsilon", "noise.schedule=linear"],
        },
        size=32,
        channels=1,
    ),
    "cifar10": Task("cifar10-ldm", {"converted": [], "dense": _DENSE}, size=32, channels=3, latents=True),
}
QUIET = ["log.every=50", "log.tensorboard=false", "train.device=cpu"]
TIMED, TIMED_STEPS, SHOWN = 64, 50, 40


def trained(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The folder of a run; made, or gone on with, where it has not ended."""
    task = TASKS[arguments.task]
    folder: Path = arguments.runs / f"{arguments.task}-{name.replace(',', '').replace(' ', '-')}-{seed}"
    if not (folder / "report.md").is_file():
        sets = [f"data.path={arguments.data}", f"output={folder}", f"train.seed={seed}"]
        sets += [f"latents.path={arguments.runs / 'latents'}"] if task.latents else []
        sets += [f"train.max_minutes={arguments.minutes:g}", *QUIET, *task.rows[name], *arguments.sets]
        run("train", task.recipe, *(word for change in sets for word in ("--set", change)))
    return folder


def judged(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """KID and the rest of a run's samples against the test images."""
    task = TASKS[arguments.task]
    samples = folder.parent / f"{folder.name}-samples"
    if not (samples / "samples.json").is_file():
        run("sample", str(folder), "-n", str(arguments.count), "--seed", str(seed), "-o", str(samples))
    words = ["judge", str(samples), "--data", arguments.test, "--features", arguments.features, "--json"]
    words += [
        "--set",
        f"data.channels={task.channels}",
        "--size",
        str(task.size),
        "--subset-size",
        str(min(1000, arguments.count // 2)),
    ]
    found: dict[str, Any] = json.loads(run(*words))
    return dict(next(iter(found["models"].values())))


def shown(folder: Path, path: Path, seed: int) -> None:
    """A grid of the run's pictures, the ten classes in turn."""
    opened = open_denoiser(str(folder))
    (pixels, _), *_ = make_pictures(opened, Wanted(count=SHOWN, seed=seed))
    rows = pixels.reshape(-1, 10, *pixels.shape[1:])
    write_png(path, sheet(list(rows)))


def seconds(folder: Path) -> float:
    """How long a run's model takes to sample 64 pictures in 50 steps, the median of three."""
    opened = open_denoiser(str(folder))
    fuse_if(opened.denoiser.model, True)
    wanted, times = Wanted(count=TIMED, steps=TIMED_STEPS), []
    list(make_pictures(opened, Wanted(count=TIMED, steps=1)))
    for _ in range(3):
        began = time.perf_counter()
        list(make_pictures(opened, wanted))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def row(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = trained(name, seed, arguments)
    facts = json.loads((folder / "run.json").read_text())
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    held = {r["step"]: r["error"] for r in records if r["kind"] == "validation"}
    shown(folder, places.samples_picture(arguments.task, name, seed), seed)
    opened = open_denoiser(str(folder))
    time_layers = sum(p.numel() for n, p in opened.denoiser.model.named_parameters() if "time_emb" in n)
    return {
        "task": arguments.task,
        "name": name,
        "seed": seed,
        "changes": TASKS[arguments.task].rows[name] + arguments.sets,
        "minutes": arguments.minutes,
        "steps": train[-1]["step"],
        "images": train[-1]["step"] * recipe["train"]["batch_size"],
        "parameters": parameter_count(opened.denoiser.model),
        "time_parameters": time_layers,
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "count": arguments.count,
        "held_out": [(round(r["seconds"] / 60, 2), held[r["step"]]) for r in train if r["step"] in held],
        "metrics": judged(folder, seed, arguments),
        "sampling_seconds": seconds(folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("names", nargs="*", default=["converted", "dense"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=places.ROOT / "runs" / "denoisers")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name in arguments.names:
            made = row(name, seed, arguments)
            rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
            key = (arguments.task, name, seed, arguments.minutes)
            rows = [r for r in rows if (r["task"], r["name"], r["seed"], r["minutes"]) != key]
            RESULTS.write_text(json.dumps([*rows, made], indent=1) + "\n")
            print({k: made[k] for k in ("name", "seed", "steps", "parameters", "metrics", "sampling_seconds")})
    results_page.write()


if __name__ == "__main__":
    main()
