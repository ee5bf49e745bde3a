"""A preview decoder: TAEF2's at a fifth of its parameters, taught by the original's from the original's latents.

    python benchmarks/preview.py --weights FOLDER --data IMAGES ... --test KODAK --runs RUNS [--minutes 30] [--part 0.2]

narrows every width of the decoder alone, trains it on what the original makes of its latents, measures both on whole
test images, times both on latents of one 512x512 image, and writes benchmarks/results/preview-cpu.json, a picture and
the page. What a run left in --runs is not made again.
"""

from __future__ import annotations

import argparse
import bisect
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import places
import results_page
import torch
from command import run
from frontier import ARCHITECTURE, IMAGES, Places, prepare
from torch import Tensor, nn

from prismify import Policy, scan
from prismify.checkpoint import Trust
from prismify.facts import parameter_count
from prismify.training.data import open_data
from prismify.training.models import open_model
from prismify.training.pictures import sheet, to_pixels, write_png
from prismify.training.schema import Data, ModelSource

TRAIN = [
    "data.validation=0", "train.batch_size=8", "train.learning_rate=2e-3", "train.steps=1000000", "train.ema=0.995",
    "loss={output: 1, latent: 0}", "blocks={fitted: 64}", "remember=2", "log.every=50", "log.tensorboard=false",
    "checkpoint.every=200",
]  # fmt: skip
DECODER = "decoder.*"
LATENTS = (1, 32, 64, 64)
SHOWN = 3


def share_of_decoder(model: nn.Module, part: float) -> float:
    """The largest share of its channels, in sixty-fourths, that leaves at most such a part of the decoder's numbers."""
    own = parameter_count(model.decoder)
    rest = parameter_count(model) - own

    def counted(left: int) -> int:
        policy = Policy(name="narrow", share=left / 64, min_width=1, include=(DECODER,))
        return scan(model, policy=policy).parameters.after - rest

    fits = bisect.bisect_right(range(1, 64), part * own, key=counted)
    return fits / 64 if fits else sys.exit(f"no decoder has {part:.3g} of the numbers")


def trained(original: nn.Module, at: Places, arguments: argparse.Namespace) -> Path:
    """The folder of the run; made, or gone on with, where it has not ended."""
    folder = at.runs / f"preview-{arguments.part:g}-{arguments.seed}"
    if (folder / "report.md").is_file():
        return folder
    small = at.runs / "converted" / folder.name
    if not small.is_dir():
        share = share_of_decoder(original, arguments.part)
        model = [str(at.weights), "--model", ARCHITECTURE, "--trust-code", "--seed", str(arguments.seed)]
        run("convert", *model, "--policy", "narrow", "--share", f"{share:.6f}", "--include", DECODER, "-o", str(small))
    sets = [f"model.source={small}", f"data.path={at.squares}", f"output={folder}", f"train.seed={arguments.seed}"]
    sets += [*IMAGES, *TRAIN, f"train.max_minutes={arguments.minutes:g}", *arguments.sets]
    run("train", "distil", "--trust-code", *(word for s in sets for word in ("--set", s)))
    return folder


@torch.no_grad()
def measured(original: nn.Module, small: nn.Module, test: str) -> tuple[dict[str, float], list[Tensor]]:
    """PSNR of both against whole images and of the small decoder against the original's; and some of all three."""
    images, _ = open_data(Data(path=test, range=(0.0, 1.0), validation=0), 0)
    found: dict[str, list[float]] = {"original": [], "small": [], "small_to_original": []}
    shown: list[Tensor] = []
    for image in images.in_order(1):
        latents = original.encode(image)
        its, ours = (model.decode(latents).clamp(0, 1) for model in (original, small))
        for name, one, other in (("original", its, image), ("small", ours, image), ("small_to_original", ours, its)):
            found[name].append(float(-10 * (one - other).square().mean().log10()))
        if len(shown) < SHOWN:
            shown.append(torch.cat([image, its, ours]))
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
    parser.add_argument("--part", type=float, default=0.2, help="of the decoder's parameters")
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
    folder = trained(original, at, arguments)
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
        "hardware": facts["hardware"],
        "versions": facts["versions"],
    }
    places.PREVIEW.write_text(json.dumps(made, indent=1) + "\n")
    print(made)
    results_page.write()


def rows(shown: list[Tensor]) -> list[list[Tensor]]:
    """Images, the original's, the small decoder's: a row of each, cut to the same size."""
    height, width = (min(one.shape[d] for one in shown) for d in (2, 3))
    return [[one[number, :, :height, :width] for one in shown] for number in range(3)]


if __name__ == "__main__":
    main()
