"""Distil a pretrained autoencoder, TAEF2, into its conversion: PSNR before, after, and the teacher's.

    python benchmarks/distil.py --weights FOLDER_WITH_BOTH_PTH_FILES --data IMAGES --test IMAGES [--minutes 15]

converts, trains with the recipe `distil` on squares cut from the images, measures on whole test images, writes
benchmarks/results/distil-cpu.json and the page (`results_page.py`). --pictures keeps reconstructions beside originals.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import places
import results_page
from command import run
from PIL import Image

from prismify.checkpoint import Trust
from prismify.metrics.evaluation import Judges, evaluate
from prismify.training.data import open_data
from prismify.training.models import open_model
from prismify.training.pictures import write_png
from prismify.training.schema import Data, ModelSource

RESULTS = places.DISTILLED
TAEF2 = str(places.ROOT / "examples" / "taef2.py")
CONVERT = ["--policy", "volumes", "--depth", "16", "--bias", "channel"]
SIDE = 64
#: Kodak's.
LONGEST = 768
SETS = [
    'model.zero=["*.conv.4"]',
    "data.range=[0, 1]",
    f"data.size={SIDE}",
    "data.validation=0",
]
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
QUIET = ["train.steps=1000000", "log.every=20", "log.tensorboard=false", "checkpoint.every=1000000"]


def cut(sources: Sequence[str], folder: Path, side: int, step: int, longest: int = LONGEST) -> None:
    """Squares of so many pixels a side from every image of the folders, one at every `step` pixels.

    Larger images are scaled down first until no side has more than `longest` pixels.
    """
    folder.mkdir(parents=True)
    for place, source in enumerate(sources):
        for path in sorted(p for p in Path(source).iterdir() if p.suffix.lower() in IMAGES):
            picture = Image.open(path).convert("RGB")
            picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
            for top in range(0, picture.height - side + 1, step):
                for left in range(0, picture.width - side + 1, step):
                    square = picture.crop((left, top, left + side, top + side))
                    square.save(folder / f"{place}-{path.stem}-{top:04d}-{left:04d}.png")


def noted(*words: str) -> str:
    """Run a command of prismify; returns it as a person would type it."""
    run(*words)
    return shlex.join(["prismify", *words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--pictures", type=Path, help="a PNG to write")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    trust = Trust(code=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole, converted, trained = (str(Path(scratch) / n) for n in ("taef2.safetensors", "taef2-prism", "run"))
        subprocess.run([sys.executable, TAEF2, arguments.weights, whole], check=True)
        commands = [noted("convert", whole, "--model", f"{TAEF2}:TAEF2", "-o", converted, *CONVERT)]
        squares = Path(scratch) / "squares"
        cut([arguments.data], squares, SIDE, SIDE // 2)
        places = [f"model.source={converted}", f"data.path={squares}", f"output={trained}"]
        sets = [*places, *SETS, *QUIET, f"train.max_minutes={arguments.minutes:g}", *arguments.sets]
        commands.append(noted("train", "distil", "--trust-code", *(word for s in sets for word in ("--set", s))))
        records = [json.loads(line) for line in Path(trained, "metrics.jsonl").read_text().splitlines()]
        facts = json.loads(Path(trained, "run.json").read_text())
        models = {
            "teacher": open_model(ModelSource(source=whole, architecture=f"{TAEF2}:TAEF2"), trust),
            "before": open_model(ModelSource(source=converted), trust),
            "after": open_model(ModelSource(source=str(Path(trained, "model"))), trust),
        }
        images, _ = open_data(Data(path=arguments.test, range=(0.0, 1.0), validation=0), 0)
        found = evaluate(models, images, Judges(), batch_size=1, shown=3)
    train = [r for r in records if r["kind"] == "train"]
    names = {scratch + "/": "", str(places.ROOT) + "/": ""}
    row: dict[str, Any] = {
        "commands": [shortened(command, names) for command in commands],
        "seed": facts["seed"],
        "minutes": arguments.minutes,
        "steps": train[-1]["step"],
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "trained_on": facts["data"]["images"],
        "test_images": found.images,
        "parameters": found.parameters,
        "psnr": {name: {"mean": r["PSNR"].mean, "deviation": r["PSNR"].deviation} for name, r in found.rows.items()},
        "ssim": {name: {"mean": r["SSIM"].mean, "deviation": r["SSIM"].deviation} for name, r in found.rows.items()},
        "curve": [(round(r["seconds"] / 60, 3), r["output"], r["latent"]) for r in train[:: max(1, len(train) // 60)]],
    }
    RESULTS.write_text(json.dumps(row, indent=1) + "\n")
    if arguments.pictures is not None:
        write_png(arguments.pictures, found.pictures)
    results_page.write()
    print({name: round(value["mean"], 2) for name, value in row["psnr"].items()})


def shortened(command: str, names: dict[str, str]) -> str:
    for long, short in names.items():
        command = command.replace(long, short)
    return command


if __name__ == "__main__":
    main()
