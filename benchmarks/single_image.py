"""Train SinDDM's own network and the paper's on the same pictures in equal time, sample both, measure the samples.

    python benchmarks/single_image.py PICTURE ... --lpips ALEX.safetensors [--minutes 20] [--pixels 12000]

trains the recipe `single-image` on each picture, converted (Sec. 4.2) and with SinDDM's network as it is, samples
--count pictures of each, judges them, and writes benchmarks/results/single-image-cpu.json, docs/images/single-*.png
and the page (`results_page.py`). Runs lie in --runs, and one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import places
import results_page
from command import run
from PIL import Image

from prismify.diffusion.opening import open_denoiser
from prismify.facts import parameter_count
from prismify.training.pictures import sheet, write_png

RESULTS = places.SINGLE
#: Row -> what it changes in the recipe.
ROWS: dict[str, list[str]] = {
    "converted": ["train.learning_rate=5e-3"],
    "dense": ["model.convert=null", "model.arguments.widen_first=false"],
}
SETS = [
    "train.batch_size=2", "train.device=cpu", "log.every=20", "log.validate_every=1000000", "log.images=0",
    "log.tensorboard=false",
]  # fmt: skip
SHOWN = 4


def trained(picture: Path, name: str, arguments: argparse.Namespace) -> Path:
    """The folder of a run; made, or gone on with, where it has not ended."""
    folder: Path = arguments.runs / f"{picture.stem}-{name}-{arguments.seed}"
    if not (folder / "report.md").is_file():
        sets = [f"data.path={picture}", f"output={folder}", f"train.seed={arguments.seed}", *SETS]
        sets += [f"train.max_minutes={arguments.minutes:g}", f"scales.max_pixels={arguments.pixels}"]
        sets += [*ROWS[name], *arguments.sets]
        run("train", "single-image", *(word for change in sets for word in ("--set", change)))
    return folder


def judged(folder: Path, picture: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    samples = _samples(folder)
    if not (samples / "samples.json").is_file():
        run("sample", str(folder), "-n", str(arguments.count), "-o", str(samples))
    found: dict[str, Any] = json.loads(
        run("judge", str(samples), "--data", str(picture), "--lpips", arguments.lpips, "--json")
    )
    return dict(next(iter(found["models"].values())))


def _samples(folder: Path) -> Path:
    """Where a run's samples lie."""
    return folder.parent / f"{folder.name}-samples"


def row(picture: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = trained(picture, name, arguments)
    facts = json.loads((folder / "run.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    train = [r for r in map(json.loads, lines) if r["kind"] == "train"]
    return {
        "picture": picture.stem,
        "name": name,
        "seed": arguments.seed,
        "changes": [*SETS, *ROWS[name], *arguments.sets],
        "minutes": arguments.minutes,
        "pixels": arguments.pixels,
        "steps": train[-1]["step"],
        "error": statistics.mean(r["error"] for r in train[-10:]),
        "parameters": parameter_count(open_denoiser(str(folder)).denoiser.model),
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "count": arguments.count,
        "metrics": judged(folder, picture, arguments),
    }


def shown(picture: Path, arguments: argparse.Namespace) -> None:
    """The picture and samples of both models, a row each."""
    rows = []
    for name in ROWS:
        samples = _samples(trained(picture, name, arguments))
        rows.append(np.stack([np.array(Image.open(path)) for path in sorted(samples.glob("[0-9]*.png"))[:SHOWN]]))
    height, width = rows[0].shape[1:3]
    original = np.full_like(rows[0], 255)
    original[0] = np.array(Image.open(picture).convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    write_png(places.IMAGES / f"single-{picture.stem}.png", sheet([original, *rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--pixels", type=int, default=12_000)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/single-image"))
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    for picture in arguments.pictures:
        for name in arguments.names:
            made = row(picture, name, arguments)
            rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
            key = (picture.stem, name, arguments.seed)
            rows = [r for r in rows if (r["picture"], r["name"], r["seed"]) != key]
            RESULTS.write_text(json.dumps([*rows, made], indent=1) + "\n")
            print({k: made[k] for k in ("picture", "name", "steps", "parameters", "metrics")})
        if arguments.names == list(ROWS):
            shown(picture, arguments)
    results_page.write()


if __name__ == "__main__":
    main()
