"""Teach a trained denoiser's conversion by its original, each term by itself: what every term is worth.

    python benchmarks/teach_denoiser.py --weights ddpm_mnist.pt --data TRAIN.npz --test TEST.npz --features LENET.pth

converts the DDPM of MNIST's digits (BrianPulfer's, 28x28), trains it for --minutes with each row's terms, samples
--count pictures of each and of the teacher, judges them against the test images, and writes
benchmarks/results/teach-denoiser-cpu.json and the page (`results_page.py`). Runs lie in --runs, and one that is there
is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import places
import results_page
import torch
from command import run

from prismify.checkpoint import open_source
from prismify.diffusion import Denoiser
from prismify.diffusion.making import Wanted
from prismify.diffusion.opening import Opened
from prismify.diffusion.record import Trained
from prismify.diffusion.writing import write_samples
from prismify.facts import parameter_count
from prismify.training.schema import Noise

NET = f"{places.ROOT / 'tests' / 'diffusion' / 'nets' / 'mnist_ddpm.py'}:make"
RESULTS = places.TAUGHT
#: Row -> what is learned from.
ROWS: dict[str, list[str]] = {
    "task alone": ["distil={output: 0, features: 0, task: 1}"],
    "output": ["distil={features: 0}"],
    "features": ["distil={output: 0}"],
    "output and features": ["distil={}"],
    "output, features and task": ["distil={task: 1}"],
}
SETS = [
    "data.size=28", "data.channels=1", "data.validation=256", "train.batch_size=32", "train.learning_rate=5e-3",
    "train.schedule=cosine", "train.steps=1000000", "train.ema=0.995", "train.device=cpu", "log.every=100",
    "log.validate_every=500", "log.images=0", "log.tensorboard=false", "sampling.sampler=ddpm",
]  # fmt: skip
SAMPLED = ["--steps", "100", "--sampler", "ddpm"]


def taught(name: str, small: Path, arguments: argparse.Namespace) -> Path:
    """The folder of a run; made, or gone on with, where it has not ended."""
    folder: Path = arguments.runs / name.replace(",", "").replace(" ", "-")
    if not (folder / "report.md").is_file():
        sets = [f"data.path={arguments.data}", f"output={folder}", f"train.max_minutes={arguments.minutes:g}"]
        sets += [*SETS, *ROWS[name], *arguments.sets]
        run("train", str(small / "recipe.yaml"), "--trust-code", *(word for s in sets for word in ("--set", s)))
    return folder


def judged(samples: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    words = ["judge", str(samples), "--data", arguments.test, "--features", arguments.features, "--json"]
    words += ["--set", "data.channels=1", "--size", "28", "--subset-size", str(min(1000, arguments.count // 2))]
    found: dict[str, Any] = json.loads(run(*words))
    return dict(next(iter(found["models"].values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ROWS))
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--runs", type=Path, default=Path("runs/teach-denoiser"))
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    small = arguments.runs / "converted"
    if not small.is_dir():
        run("convert", arguments.weights, "--model", NET, "--policy", "volumes", "-o", str(small))
    teacher = open_source(arguments.weights, model=NET, trust_code=True).build().eval()  # type: ignore[union-attr]
    samples = arguments.runs / "teacher-samples"
    if not (samples / "samples.json").is_file():
        opened = Opened(Denoiser(teacher), Trained(noise=Noise(), shape=(1, 28, 28)))
        wanted = Wanted(count=arguments.count, steps=100, sampler="ddpm")
        write_samples(opened, wanted, samples, "the teacher", torch.device("cpu"), lambda done, steps: None)
    shutil.copy(samples / "grid.png", places.IMAGES / "taught-teacher.png")
    rows = [{"name": "teacher", "parameters": parameter_count(teacher), "metrics": judged(samples, arguments)}]
    for name in arguments.names:
        folder = taught(name, small, arguments)
        samples = arguments.runs / f"{folder.name}-samples"
        if not (samples / "samples.json").is_file():
            run("sample", str(folder), "-n", str(arguments.count), *SAMPLED, "-o", str(samples), "--trust-code")
        shutil.copy(samples / "grid.png", places.IMAGES / f"taught-{folder.name}.png")
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        facts = json.loads((folder / "run.json").read_text())
        held = [r for r in records if r["kind"] == "validation"][-1]
        rows.append(
            {
                "name": name,
                "changes": ROWS[name] + arguments.sets,
                "parameters": facts["model"]["parameters"],
                "minutes": arguments.minutes,
                "steps": held["step"],
                "seed": facts["seed"],
                "hardware": facts["hardware"],
                "versions": facts["versions"],
                "count": arguments.count,
                "error": held["error"],
                "error_to_teacher": held["error_to_teacher"],
                "metrics": judged(samples, arguments),
            }
        )
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        print({k: rows[-1][k] for k in ("name", "steps", "error", "error_to_teacher", "metrics")})
    results_page.write()


if __name__ == "__main__":
    main()
