"""A preview decoder: TAEF2's at a fifth of its parameters, taught by the original's from the original's latents.

    python benchmarks/preview.py --weights FOLDER --data IMAGES ... --test KODAK --runs RUNS [--minutes 30]

narrows the decoder alone, trains it on what the original makes of its latents, measures both on whole
test images, times both on latents of one 512x512 image, and writes benchmarks/results/preview-cpu.json, a picture and
the page. What a run left in --runs is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import places
import results_page
import torch
from command import run
from frontier import ARCHITECTURE, IMAGES, Places, prepare
from frontier_ways import LEVELS, WIDTH
from torch import Tensor, nn

from prismify.checkpoint import Trust
from prismify.facts import parameter_count
from prismify.training.data import open_data
from prismify.training.models import open_model
from prismify.training.pictures import sheet, to_pixels, write_png
from prismify.training.schema import Data, ModelSource

TRAIN = [
    "data.validation=0", "train.batch_size=8", "train.learning_rate=5e-4", "train.steps=1000000", "train.ema=0.995",
    "loss={output: 1, latent: 0}", "blocks={fitted: 64}", "remember=2", "log.every=50", "log.tensorboard=false",
    "checkpoint.every=200",
]  # fmt: skip
#: Channels of a stream and inside its blocks, by level, from full size to an eighth; as in `frontier`, by hand.
SLIM = ((16, 16), (32, 24), (48, 16), (64, 8))
LATENTS = (1, 32, 64, 64)
SHOWN = 3


def shares() -> dict[str, float]:
    """Of each width's channels those that are left, by patterns: of the encoder all."""
    own = {
        pattern: channels / WIDTH
        for level, widths in zip(LEVELS, SLIM, strict=True)
        for patterns, channels in zip(level, widths, strict=True)
        for pattern in patterns
        if pattern.startswith("decoder")
    }
    return {**own, "encoder.*": 1.0}


def trained(at: Places, arguments: argparse.Namespace) -> Path:
    """The folder of the run; made, or gone on with, where it has not ended."""
    folder = at.runs / f"preview-{arguments.seed}"
    if (folder / "report.md").is_file():
        return folder
    small = at.runs / "converted" / folder.name
    if not small.is_dir():
        model = [str(at.weights), "--model", ARCHITECTURE, "--trust-code", "--seed", str(arguments.seed)]
        options = [f"--share={pattern}={share}" for pattern, share in shares().items()]
        run("convert", *model, "--policy", "narrow", "--min-width=1", *options, "-o", str(small))
    sets = [f"model.source={small}", f"data.path={at.squares}", f"output={folder}", f"train.seed={arguments.seed}"]
    sets += [*IMAGES, *TRAIN, f"train.max_minutes={arguments.minutes:g}", *arguments.sets]
    run("train", "distil", "--trust-code", *(word for s in sets for word in ("--set", s)))
    return folder


@torch.no_grad()
def measured(original: nn.Module, small: nn.Module, test: str) -> tuple[dict[str, float], list[Tensor]]:
    """PSNR of both against whole images, and of the small decoder against the original's; the middle of some of all."""
    images, _ = open_data(Data(path=test, range=(0.0, 1.0), validation=0), 0)
    found: dict[str, list[float]] = {"original": [], "small": [], "small_to_original": []}
    shown: list[Tensor] = []
    for image in images.in_order(1):
        latents = original.encode(image)
        its, ours = (model.decode(latents).clamp(0, 1) for model in (original, small))
        for name, one, other in (("original", its, image), ("small", ours, image), ("small_to_original", ours, its)):
            found[name].append(float(-10 * (one - other).square().mean().log10()))
        if len(shown) < SHOWN:
            shown.append(torch.cat([image, its, ours])[..., _middle(image.shape[2], 192), _middle(image.shape[3], 256)])
    return {name: statistics.mean(values) for name, values in found.items()}, shown


@torch.no_grad()
def timed(models: dict[str, nn.Module], rounds: int) -> dict[str, float]:
    """Median milliseconds to decode one image; the models take turns, so that a busy moment meets all of them."""
    latents, times = torch.randn(LATENTS), {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            begun = time.perf_counter()
            model.decode(latents)
            if turn:  # the first is warm-up
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--weights", "--test"):
        parser.add_argument(name, required=True)
    parser.add_argument("--data", required=True, nargs="+", help="folders of images to train on")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    at, trust = Places(arguments.runs.resolve()), Trust(code=True)
    at.runs.mkdir(parents=True, exist_ok=True)
    prepare(at, arguments)
    original: Any = open_model(ModelSource(source=str(at.weights), architecture=ARCHITECTURE), trust).eval()
    folder = trained(at, arguments)
    small: Any = open_model(ModelSource(source=str(folder / "model")), trust).eval()
    psnr, shown = measured(original, small, arguments.test)
    write_png(
        places.IMAGES / "taef2-preview.png", sheet([to_pixels(torch.stack(row), (0.0, 1.0)) for row in rows(shown)])
    )
    facts = json.loads((folder / "run.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    made = {
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "changes": arguments.sets,
        "steps": [r for r in records if r["kind"] == "train"][-1]["step"],
        "parameters": {"original": parameter_count(original.decoder), "small": parameter_count(small.decoder)},
        "psnr": psnr,
        "milliseconds": timed({"original": original, "small": small}, arguments.rounds),
        "latents": LATENTS,
        "threads": arguments.threads,
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
    }
    places.PREVIEW.write_text(json.dumps(made, indent=1) + "\n")
    print(made)
    results_page.write()


def _middle(length: int, wanted: int) -> slice:
    """The middle of an axis."""
    first = max(0, (length - wanted) // 2)
    return slice(first, first + wanted)


def rows(shown: list[Tensor]) -> list[list[Tensor]]:
    """Images, the original's, the small decoder's: a row of each."""
    return [[one[number] for one in shown] for number in range(3)]


if __name__ == "__main__":
    main()
