"""Teach smaller copies of a trained denoiser by the original: what every term is worth, and how small it can get.

    python benchmarks/teach_denoiser.py [terms sizes | NAME ...] --weights ddpm_mnist.pt --data TRAIN.npz
        --test TEST.npz --features LENET.pth

converts the DDPM of MNIST's digits (BrianPulfer's, 28x28) as each row says, trains it for --minutes, samples --count
pictures of each and of the teacher, judges them against the test images, and writes
benchmarks/results/teach-denoiser-cpu.json and the page (`results_page.py`). Runs lie in --runs, and one that is there
is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
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
from prismify.training.engine.begin import hardware
from prismify.training.schema import Noise

NET = f"{places.ROOT / 'tests' / 'diffusion' / 'nets' / 'mnist_ddpm.py'}:make"
RESULTS = places.TAUGHT


@dataclass(frozen=True)
class Row:
    """A student: how the teacher is converted to it, and what the recipe changes."""

    policy: list[str]
    changes: list[str]


VOLUMES = ["--policy", "volumes"]
#: What is learned from.
TERMS: dict[str, Row] = {
    "task alone": Row(VOLUMES, ["distil={output: 0, features: 0, task: 1}"]),
    "output": Row(VOLUMES, ["distil={features: 0}"]),
    "features": Row(VOLUMES, ["distil={output: 0}"]),
    "output and features": Row(VOLUMES, ["distil={}"]),
    "output, features and task": Row(VOLUMES, ["distil={task: 1}"]),
}
FITTED = ["distil={features: 0, fitted: 256}", "train.learning_rate=2e-3"]


def _narrow(share: float) -> list[str]:
    return ["--policy", "narrow", "--share", str(share)]


#: What is left of the teacher: started in closed form, taught its output.
SIZES: dict[str, Row] = {
    "narrow to 3/4": Row(_narrow(0.75), FITTED),
    "narrow to 1/2": Row(_narrow(0.5), FITTED),
    "narrow to 3/10": Row(_narrow(0.3), FITTED),
    "tucker 4": Row(["--policy", "volumes", "--operator", "Tucker", "--option", "rank=4"], FITTED),
    "27 weights": Row(VOLUMES, ["distil={features: 0}"]),
}
ROWS = {**TERMS, **SIZES}
SETS = [
    "data.size=28", "data.channels=1", "data.validation=256", "train.batch_size=32", "train.learning_rate=5e-3",
    "train.schedule=cosine", "train.steps=1000000", "train.ema=0.995", "train.device=cpu", "log.every=100",
    "log.validate_every=500", "log.images=0", "log.tensorboard=false", "sampling.sampler=ddpm",
]  # fmt: skip
SAMPLED = ["--steps", "100", "--sampler", "ddpm"]


def taught(name: str, arguments: argparse.Namespace) -> Path:
    """The folder of a run; made, or gone on with, where it has not ended."""
    folder: Path = arguments.runs / places.slug(name)
    small = arguments.runs / "converted" / places.slug(" ".join(ROWS[name].policy))
    if not small.is_dir():
        run("convert", arguments.weights, "--model", NET, *ROWS[name].policy, "-o", str(small))
    if not (folder / "report.md").is_file():
        sets = [f"data.path={arguments.data}", f"output={folder}", f"train.max_minutes={arguments.minutes:g}"]
        sets += [*SETS, *ROWS[name].changes, *arguments.sets]
        run("train", str(small / "recipe.yaml"), "--trust-code", *(word for s in sets for word in ("--set", s)))
    return folder


def judged(samples: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    words = ["judge", str(samples), "--data", arguments.test, "--features", arguments.features, "--json"]
    words += ["--set", "data.channels=1", "--size", "28", "--subset-size", str(min(1000, arguments.count // 2))]
    found: dict[str, Any] = json.loads(run(*words))
    return dict(next(iter(found["models"].values())))


def keep(made: dict[str, Any]) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    RESULTS.write_text(json.dumps([r for r in rows if r["name"] != made["name"]] + [made], indent=1) + "\n")
    print({k: made[k] for k in ("name", "steps", "error", "error_to_teacher", "metrics") if k in made})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["terms", "sizes"], choices=["terms", "sizes", *ROWS])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--runs", type=Path, default=Path("runs/teach-denoiser"))
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    teacher = open_source(arguments.weights, model=NET, trust_code=True).build().eval()  # type: ignore[union-attr]
    samples = arguments.runs / "teacher-samples"
    if not (samples / "samples.json").is_file():
        opened = Opened(Denoiser(teacher), Trained(noise=Noise(), shape=(1, 28, 28)))
        wanted = Wanted(count=arguments.count, steps=100, sampler="ddpm")
        write_samples(opened, wanted, samples, "the teacher", torch.device("cpu"), lambda done, steps: None)
    shutil.copy(samples / "grid.png", places.taught_picture("teacher"))
    made = {"name": "teacher", "date": places.today(), "hardware": hardware(torch.device("cpu")), "seed": 0}
    keep({**made, "parameters": parameter_count(teacher), "metrics": judged(samples, arguments)})
    groups = {"terms": list(TERMS), "sizes": list(SIZES)}
    for name in (name for wanted in arguments.names for name in groups.get(wanted, [wanted])):
        folder = taught(name, arguments)
        samples = arguments.runs / f"{folder.name}-samples"
        if not (samples / "samples.json").is_file():
            run("sample", str(folder), "-n", str(arguments.count), *SAMPLED, "-o", str(samples), "--trust-code")
        shutil.copy(samples / "grid.png", places.taught_picture(name))
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        facts = json.loads((folder / "run.json").read_text())
        held = [r for r in records if r["kind"] == "validation"][-1]
        keep(
            {
                "name": name,
                "kind": "terms" if name in TERMS else "sizes",
                "changes": ROWS[name].changes + arguments.sets,
                "parameters": facts["model"]["parameters"],
                "minutes": arguments.minutes,
                "steps": held["step"],
                "seed": facts["seed"],
                "date": places.today(),
                "hardware": facts["hardware"],
                "versions": facts["versions"],
                "count": arguments.count,
                "error": held["error"],
                "error_to_teacher": held["error_to_teacher"],
                "metrics": judged(samples, arguments),
            }
        )
    results_page.write()


if __name__ == "__main__":
    main()
