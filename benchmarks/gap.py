"""Close the gap: converted autoencoders beside the dense one, trained for the same time on the same images.

    python benchmarks/gap.py NAME ... --data TRAIN --test TEST [--minutes 10] [--seeds 0 1]

trains the recipe `cifar10-fast` with what CANDIDATES changes of it, measures on test images, and writes
benchmarks/results/gap-cpu.json and the page (`results_page.py`), which is all that happens without names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import places
import results_page
from command import run

RESULTS = places.GAP
#: Every run starts from these: the shipped recipe, for as long as the clock says.
COMMON = [
    "train.steps=1000000",
    "log.every=25",
    "log.validate_every=250",
    "checkpoint.every=1000000",
    "log.tensorboard=false",
]
DENSE = ["model.convert=null", "train.fuse=false"]
VOLUMES = "model.convert={{name: volumes, depth: {0}}}"
CANDIDATES: dict[str, list[str]] = {
    "dense, 5e-4": [*DENSE, "train.learning_rate=5e-4"],
    "dense, 1e-3": [*DENSE, "train.learning_rate=1e-3"],
    "dense, 2e-3": [*DENSE, "train.learning_rate=2e-3"],
    "dense, 4e-3": [*DENSE, "train.learning_rate=4e-3"],
    "dense, 1e-3, batch 16": [*DENSE, "train.learning_rate=1e-3", "train.batch_size=16"],
    "dense, 2e-3, batch 16": [*DENSE, "train.learning_rate=2e-3", "train.batch_size=16"],
    "default": [],
    "residual ends random": ["model.zero=[]"],
    "rate 1.2e-2": ["train.learning_rate=1.2e-2"],
    "rate 5e-2": ["train.learning_rate=5e-2"],
    "norms at 0.3 of the rate": ["train.rates.norm=0.3"],
    "dense layers at 0.3 of the rate": ["train.rates.dense=0.3"],
    "batch 4": ["train.batch_size=4"],
    "batch 16": ["train.batch_size=16"],
    "batch 32": ["train.batch_size=32"],
    "circular": ["model.convert={name: paper, topology: circular}"],
    "a bias a channel": ["model.convert={name: paper, bias: channel}"],
    "2 volumes": [VOLUMES.format(32)],
    "4 volumes": [VOLUMES.format(16)],
    "width 128": ["model.arguments.block_out_channels=[128, 128, 128]"],
    "not fused": ["train.fuse=false"],
    "constant rate": ["train.schedule=constant"],
    "channel dilation": ["model.convert={name: paper, channel_dilation: true}"],
    "a gain a channel": ["model.convert={name: paper, operator: Gained, options: {operator: {type: DeepPrism}}}"],
    "shuffled": ["model.convert={name: paper, operator: Shuffled}", "model.zero=['*.conv2.inner']"],
}
#: Candidates with an operator that prismify does not know: the file that registers it.
OWN = {"shuffled": str(Path(__file__).parent / "shuffled.py")}


def measure(name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train one candidate, and measure it on test images."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch) / "run"
        sets = [*COMMON, f"train.max_minutes={given.minutes:g}", f"train.seed={seed}", *CANDIDATES[name]]
        sets += [f"data.path={given.data}", f"output={folder}"]
        begun = time.time()
        own = ["--import", OWN[name]] if name in OWN else []
        run("train", "cifar10-fast", "--restart", *own, *(word for s in sets for word in ("--set", s)))
        whole = time.time() - begun
        found = json.loads(
            run(
                "evaluate",
                str(folder / "model"),
                *own,
                "--data",
                given.test,
                "--size",
                "32",
                "--count",
                str(given.count),
                "--json",
            )
        )
        facts = json.loads((folder / "run.json").read_text())
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    seconds = {r["step"]: r["seconds"] for r in train}
    curve = [
        (round(seconds[r["step"]] / 60, 3), round(r["psnr"], 3))
        for r in records
        if r["kind"] == "validation" and r["step"] in seconds
    ]
    (metrics,) = [row for model, row in found["models"].items() if model != "originals"]
    return {
        "name": name,
        "changes": CANDIDATES[name],
        "seed": seed,
        "minutes": given.minutes,
        "data": given.images,
        "seconds": round(whole),
        "steps": train[-1]["step"],
        "parameters": facts["model"]["parameters"],
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "images": found["data"]["images"],
        **{
            metric.lower(): {k: round(v, 4) for k, v in metrics[metric].items() if k != "over"}
            for metric in ("PSNR", "SSIM")
        },
        "curve": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*CANDIDATES, []], metavar="NAME")
    parser.add_argument("--data", help="images to train on, as a recipe's data.path")
    parser.add_argument("--test", help="images to measure on")
    parser.add_argument("--images", help="what these images are, in words, for the page")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=10000, help="test images")
    parser.add_argument("--keep", type=Path, help="keep the last run's folder here")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    for seed in arguments.seeds:
        for name in arguments.names:
            row = measure(name, seed, arguments)
            key = ("name", "seed", "minutes")
            rows = [r for r in rows if any(r[k] != row[k] for k in key)] + [row]
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
            print(
                f"{name}, seed {seed}, {arguments.minutes:g} min: {row['steps']} steps, {row['psnr']['mean']:.2f} dB",
                flush=True,
            )
    results_page.write()


if __name__ == "__main__":
    main()
