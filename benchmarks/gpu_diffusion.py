"""Latent diffusion's UNet (Sec. 4.3), converted, trained for some minutes on a CUDA device: speed, losses, pictures.

    python benchmarks/gpu_diffusion.py --data CIFAR10.npz --output FOLDER [--width 256] [--minutes 5] [--device cuda]

makes the model with `prismify new`, trains it class-conditional on the latents of `cifar10-ae-64`, samples 64 pictures,
and writes `diffusion-gpu.json` and `diffusion-gpu.png` into the folder.
`--device cpu --width 32 --minutes 0.2` checks it anywhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from command import run

#: What changes in the recipe `cifar10-ldm`.
SETS = [
    "model.arguments={}",
    "model.convert=null",
    "loss.weighting=min_snr",
    "train.steps=1000000",
    "train.ema=0.999",
    "sampling.guidance=2.0",
    "log.every=50",
    "log.validate_every=1000",
    "log.images=20",
    "log.tensorboard=false",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    model, folder = arguments.output / "model", arguments.output / "run"
    for place in (model, folder):
        shutil.rmtree(place, ignore_errors=True)
    began = time.perf_counter()
    width = ["--width", str(arguments.width), "--size", "8", "--classes", "10"]
    print(run("new", "ldm-unet", *width, "--policy", "volumes", "-o", str(model)))
    sets = [
        *SETS,
        f"model.source={model}",
        f"data.path={arguments.data}",
        f"output={folder}",
        f"train.device={arguments.device}",
        f"train.batch_size={arguments.batch}",
        f"train.learning_rate={arguments.rate:g}",
        f"train.max_minutes={arguments.minutes:g}",
        f"train.mixed_precision={arguments.precision}",
        *arguments.sets,
    ]
    run("train", "cifar10-ldm", *(word for change in sets for word in ("--set", change)))
    trained = time.perf_counter()
    samples = arguments.output / "samples"
    said = run("sample", str(folder), "-n", "64", "--guidance", "2", "--device", arguments.device, "-o", str(samples))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    facts = json.loads((folder / "run.json").read_text())
    speeds = sorted(r["images_per_second"] for r in train[1:] or train)
    report: dict[str, Any] = {
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "parameters": facts["model"]["parameters"],
        "width": arguments.width,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "steps": train[-1]["step"],
        "images_per_second": speeds[len(speeds) // 2],
        "gpu_memory_gib": train[-1].get("gpu_memory_gib"),
        "error": [(r["step"], round(r["error"], 5)) for r in train[:: max(1, len(train) // 40)]],
        "held_out": [(r["step"], round(r["error"], 5)) for r in records if r["kind"] == "validation"],
        "seconds": {"until trained": trained - began, "sampling": time.perf_counter() - trained},
    }
    (arguments.output / "diffusion-gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    shutil.copyfile(samples / "grid.png", arguments.output / "diffusion-gpu.png")
    print(said, json.dumps({k: report[k] for k in ("steps", "images_per_second", "held_out")}))


if __name__ == "__main__":
    main()
