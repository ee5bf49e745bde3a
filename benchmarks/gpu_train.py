"""The paper's autoencoder (Sec. 4.1) at C = 256 on one CUDA device: dense and converted, in equal time.

    python benchmarks/gpu_train.py --data CIFAR10 --test CIFAR10 --output FOLDER [--lpips ALEX] [--features RESNET]
        [--width 256] [--minutes 2.3] [--batch 256] [--rate 2.5e-2] [--device cuda]

trains both by the recipe `cifar10-fast` in bfloat16 (`prismify reproduce table4 --budget gpu`), measures them on
--count test images, and writes `gpu-train.json` (speed, memory, losses, scores), `gpu-train.md` (Table 4) and
`gpu-train.png` into the folder. What was made there is not made again.
`--device cpu --width 32 --minutes 0.1 --batch 8` checks it anywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prismify.metrics.evaluation import evaluate
from prismify.metrics.judges import Judges
from prismify.metrics.networks import load_network
from prismify.paper.budgets import BUDGETS
from prismify.paper.figure import table_4
from prismify.paper.methods import DEEP_PRISM, table_4_methods
from prismify.paper.points import Setting, made_points, run_folder
from prismify.training.data import open_data
from prismify.training.losses import load_lpips
from prismify.training.models import open_model
from prismify.training.pictures import write_png
from prismify.training.schema import Data, ModelSource, Perceptual

SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="images to train on, as a recipe's data.path")
    parser.add_argument("--test", required=True, help="images to measure on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lpips", help="weights of LPIPS (alex)")
    parser.add_argument("--features", help="weights of a feature network")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=2.3, help="for each of the two")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2.5e-2, help="of the converted one")
    parser.add_argument("--count", type=int, default=2000, help="test images")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    began, device = time.perf_counter(), torch.device(arguments.device)
    precision = "bf16" if device.type == "cuda" else "no"
    budget = replace(
        BUDGETS["gpu"],
        channels=arguments.width,
        minutes=arguments.minutes,
        sets=(
            f"train.device={device.type}",
            f"train.mixed_precision={precision}",
            f"train.batch_size={arguments.batch}",
        ),
    )
    judged = {"lpips": arguments.lpips, "features": arguments.features}
    lpips = load_lpips(Perceptual(net="alex", weights=arguments.lpips))[0] if arguments.lpips else None
    network = load_network(Path(arguments.features), device) if arguments.features else None
    more = ("log.every=10", *arguments.sets)
    setting = Setting(arguments.data, arguments.test, budget, count=arguments.count, judged=judged, sets=more)
    rate = f"train.learning_rate={arguments.rate:g}"
    methods = [replace(m, sets=(*m.sets, rate)) if m.family == DEEP_PRISM else m for m in table_4_methods(budget)]
    points, runs = [], []
    for point in made_points(methods, [0], setting, Judges(lpips, network), arguments.output, lambda event: None):
        points.append(point)
        runs.append(run_folder(methods[len(runs)], 0, arguments.output))
        keep(arguments.output, points, [speed(run) for run in runs], time.perf_counter() - began)
        print(point["family"], point["steps"], point["scores"]["PSNR"], flush=True)
    seen = Data(path=arguments.test, split="test", size=32, validation=0)
    models = {run.name: open_model(ModelSource(source=str(run / "model"))) for run in runs}
    images = open_data(seen, 0)[0]
    few = images.images.subset(list(range(SHOWN)))
    found = evaluate(models, type(images)(few, seen, 0), Judges(), shown=SHOWN, device=device)
    write_png(arguments.output / "gpu-train.png", found.pictures)
    keep(arguments.output, points, [speed(run) for run in runs], time.perf_counter() - began)


def keep(folder: Path, points: list[dict[str, Any]], speeds: list[dict[str, Any]], seconds: float) -> None:
    rows = [{**point, **speed} for point, speed in zip(points, speeds, strict=True)]
    (folder / "gpu-train.json").write_text(json.dumps({"seconds": seconds, "points": rows}, indent=1) + "\n")
    (folder / "gpu-train.md").write_text(table_4(points).markdown())


def speed(run: Path) -> dict[str, Any]:
    """How fast a run went, on how much memory, and its losses."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    return {
        "images_per_second": statistics.median(r["images_per_second"] for r in train[1:] or train),
        "gpu_memory_gib": train[-1].get("gpu_memory_gib"),
        "loss": [(r["step"], round(r["total"], 5)) for r in train[:: max(1, len(train) // 40)]],
        "held_out": [(r["step"], round(r["psnr"], 3)) for r in records if r["kind"] == "validation"],
    }


if __name__ == "__main__":
    main()
