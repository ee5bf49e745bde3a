"""How small TAEF2 can get: PSNR, SSIM and LPIPS on Kodak against parameters, for four ways to choose its layers.

    python benchmarks/frontier.py --weights FOLDER --data IMAGES --test KODAK --lpips ALEX.safetensors --runs RUNS
        [search greedy uniform narrow slim widths fitted whole] [--budgets 80K 270K 670K] [--minutes 30] [--seeds 0]
        [--jobs 1]

searches once, then trains a point for each way and budget on squares cut from the images (whose reconstruction counts,
with latents near the original's), --jobs of them side by side, each with the threads of OMP_NUM_THREADS; measures each
on whole test images, and writes benchmarks/results/frontier-cpu.json and the page. What a run left in --runs is not
made again.

search   the plan of `prismify search`, from what its candidates have learned; blocks on the student's own inputs, then
         the whole model
greedy   the same, but the plan takes the exchange that costs the least error for each parameter saved, again and again
uniform  the same, but one candidate for all blocks, the best that fits
narrow   policy narrow: every width of the model, residual streams as well, has the same share of its channels left;
         from the channels that tell most of the others, the whole model from the first step
slim     policy narrow with widths by hand (SLIM): streams wide where images are small, blocks narrow inside
widths   policy narrow with the widths that `prismify search --widths` chooses
fitted   the plan of `search`, from closed-form starts, the whole model from the first step
whole    the plan of `search`, from fresh weights, the whole model from the first step
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import itertools
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import places
import results_page
import torch
import yaml
from command import run
from distil import TAEF2, cut
from frontier_ways import NARROW, WAYS, WIDTH, amount, chosen_by, slim_shares

from prismify import Policy, scan
from prismify.checkpoint import Trust
from prismify.graph.latents import decode, encode
from prismify.metrics.evaluation import Judges, evaluate
from prismify.search import Outcome, read_outcome, write_plan
from prismify.search.widths import WIDTHS
from prismify.training.data import open_data
from prismify.training.losses import load_lpips
from prismify.training.models import open_model
from prismify.training.pictures import sheet, to_pixels, write_png
from prismify.training.schema import Data, ModelSource, Perceptual

RESULTS = places.FRONTIER
ARCHITECTURE = f"{TAEF2}:TAEF2"
SQUARE = 64
IMAGES = ["data.range=[0, 1]", f"data.size={SQUARE}"]
SEARCH = ["data.validation=32", "train.batch_size=8", "train.steps=100000", "checkpoint.every=50", "log.every=5"]
#: The image is what counts; the latents, which others were trained on, are held near the original's.
POINT = [
    "data.validation=0", "train.batch_size=8", "train.learning_rate=5e-4", "train.rates.kernel=5",
    "train.steps=1000000", "train.ema=0.995", "loss={output: 0, latent: 0.02, image: 1}", "remember=2",
    "log.every=50", "log.tensorboard=false", "checkpoint.every=200",
]  # fmt: skip
#: What a point's folder keeps of how it was trained, beside what the run itself notes.
HOW = "frontier.json"
#: Of the test images, so many are shown, one of every so many.
SHOWN, SHOWN_STEP = 3, 8


@dataclass(frozen=True)
class Places:
    """What lies where in --runs."""

    runs: Path

    @property
    def weights(self) -> Path:
        return self.runs / "taef2.safetensors"

    @property
    def squares(self) -> Path:
        return self.runs / "squares"

    @property
    def search(self) -> Path:
        return self.runs / "search"

    @property
    def widths(self) -> Path:
        return self.runs / "widths"

    def point(self, way: str, budget: str, seed: int) -> Path:
        return self.runs / f"{way}-{budget}-{seed}"


def prepare(at: Places, arguments: argparse.Namespace) -> None:
    """Make the original's weights and the squares, where they are not there."""
    if not at.weights.is_file():
        subprocess.run([sys.executable, TAEF2, arguments.weights, str(at.weights)], check=True)
    if not at.squares.is_dir():
        cut(arguments.data, at.squares, SQUARE, SQUARE)


def searched(at: Places, arguments: argparse.Namespace) -> Outcome:
    """The finished search; made, or gone on with, where it is not."""
    if not (at.search / "scores.json").is_file():
        sets = [*IMAGES, *SEARCH, f"train.max_minutes={arguments.search_minutes:g}"]
        model = [str(at.weights), "--model", ARCHITECTURE, "--trust-code", "--data", str(at.squares)]
        run("search", *model, "-o", str(at.search), *(word for s in sets for word in ("--set", s)))
    return read_outcome(at.search)


def search_widths(at: Places) -> None:
    """How much each width is worth, where it is not known."""
    if not (at.widths / WIDTHS).is_file():
        model = [str(at.weights), "--model", ARCHITECTURE, "--trust-code", "--data", str(at.squares)]
        sets = [*IMAGES, "data.validation=32", "train.batch_size=8", "fitted=64"]
        words = (word for s in sets for word in ("--set", s))
        run("search", *model, "-o", str(at.widths), "--widths", *words)


def trained(
    way: str, budget: str, seed: int, at: Places, outcome: Outcome | None, arguments: argparse.Namespace
) -> Path:
    """The folder of a point's run; made, or gone on with, where it has not ended."""
    folder = at.point(way, budget, seed)
    if (folder / "report.md").is_file():
        return folder
    small = at.runs / "converted" / folder.name
    if not small.is_dir():
        model = [str(at.weights), "--model", ARCHITECTURE, "--trust-code", "--seed", str(seed)]
        run("convert", *model, *policy_of(way, budget, seed, at, outcome), "-o", str(small))
    sets = [f"model.source={small}", f"data.path={at.squares}", f"output={folder}", f"train.seed={seed}"]
    sets += [*IMAGES, *POINT, f"train.max_minutes={arguments.minutes:g}", *WAYS[way], *arguments.sets]
    run("train", "distil", "--trust-code", *(word for s in sets for word in ("--set", s)))
    (folder / HOW).write_text(json.dumps({"jobs": arguments.jobs, "changes": [*WAYS[way], *arguments.sets]}))
    return folder


def policy_of(way: str, budget: str, seed: int, at: Places, outcome: Outcome | None) -> list[str]:
    """What `convert` is told, beside the model."""
    if way == "slim":
        shares = slim_shares(budget)
        return ["--policy", "narrow", "--min-width=1", *(f"--share={name}={share}" for name, share in shares.items())]
    if way == "widths":
        plan = at.runs / "plans" / f"{way}-{budget}-{seed}.json"
        run("search", str(at.widths), "--parameters", budget, "--plan-out", str(plan))
        return ["--plan", str(plan)]
    if outcome is None or way == "narrow":
        return ["--policy", "narrow", "--min-width=1", f"--share={share_within(amount(budget), at):.6f}"]
    plan = at.runs / "plans" / f"{way}-{budget}-{seed}.json"
    write_plan(outcome, chosen_by(way, outcome, amount(budget)), plan, f"at most {budget} parameters")
    if way in ("fitted", "whole"):
        plan.with_suffix(".safetensors").unlink()
    return ["--plan", str(plan)]


def share_within(most: float, at: Places) -> float:
    """The largest share of its channels, in sixty-fourths, with which the model has at most so many parameters."""
    model = teacher(at)

    def counted(left: int) -> int:
        return scan(model, policy=Policy(name="narrow", share=left / WIDTH, min_width=1)).parameters.after

    fits = bisect.bisect_right(range(1, WIDTH), most, key=counted)
    return fits / WIDTH if fits else sys.exit(f"no share of the channels has at most {most:,.0f} parameters")


def teacher(at: Places) -> Any:
    return open_model(ModelSource(source=str(at.weights), architecture=ARCHITECTURE), Trust(code=True)).eval()


def student(folder: Path) -> Any:
    return open_model(ModelSource(source=str(folder / "model")), Trust(code=True)).eval()


def test_images(arguments: argparse.Namespace) -> Any:
    return open_data(Data(path=arguments.test, range=(0.0, 1.0), validation=0), 0)[0]


@dataclass(frozen=True)
class Original:
    """What every point is measured beside.

    Args:
        scores: of the whole original, and its parameters.
        latents: of each test image.
    """

    scores: dict[str, float]
    parameters: int
    latents: list[torch.Tensor]


@torch.no_grad()
def original_of(at: Places, arguments: argparse.Namespace) -> Original:
    """The original's measurements; made once in --runs for the same test images and judge."""
    judged = hashlib.sha256(f"{Path(arguments.test).resolve()} {arguments.lpips}".encode()).hexdigest()[:8]
    kept = at.runs / f"original-{judged}.pt"
    if not kept.is_file():
        model, images = teacher(at), test_images(arguments)
        scores, parameters, _ = scores_of(model, arguments)
        latents = [encode(model, image).mean for image in images.in_order(1)]
        torch.save({"scores": scores, "parameters": parameters, "latents": latents}, kept)
    return Original(**torch.load(kept))


def scores_of(model: Any, arguments: argparse.Namespace) -> tuple[dict[str, float], int, int]:
    """A model's means over the test images, its parameters, and how many images these are."""
    lpips, _ = load_lpips(Perceptual(net="alex", weights=arguments.lpips))
    found = evaluate({"it": model}, test_images(arguments), Judges(lpips=lpips), batch_size=1, shown=1)
    return {key: value.mean for key, value in found.rows["it"].items()}, found.parameters["it"], found.images


@torch.no_grad()
def halves(model: Any, original: Original, images: Any) -> dict[str, float]:
    """How well each half serves beside the original's other half."""
    apart, decibels = [], []
    for image, wanted in zip(images.in_order(1), original.latents, strict=True):
        apart.append(float((encode(model, image).mean - wanted).square().mean() / wanted.var()))
        error = (decode(model, wanted)[0].clamp(0, 1) - image).square().mean()
        decibels.append(float(-10 * error.log10()))
    return {"latent_error": statistics.mean(apart), "decoder_psnr": statistics.mean(decibels)}


def measured(
    way: str, budget: str, seed: int, folder: Path, outcome: Outcome | None, at: Places, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A point's row: how it was made, and what it is worth on the test images."""
    original, model = original_of(at, arguments), student(folder)
    scores, parameters, images = scores_of(model, arguments)
    return {
        **facts_of(way, budget, seed, folder, outcome, arguments),
        "parameters": parameters,
        "original_parameters": original.parameters,
        "test_images": images,
        **scores,
        "original": original.scores,
        **halves(model, original, test_images(arguments)),
    }


@torch.no_grad()
def pictured(models: list[Any], images: Any, path: Path) -> None:
    """The middle of some test images, and below what every model makes of it."""
    pick = list(itertools.islice(images.in_order(1), 0, SHOWN * SHOWN_STEP, SHOWN_STEP))
    middle = torch.cat(
        [one[:, :, one.shape[2] // 2 - 96 :, one.shape[3] // 2 - 128 :][:, :, :192, :256] for one in pick]
    )
    rows = [middle, *(decode(model, encode(model, middle).mean)[0] for model in models)]
    write_png(path, sheet([to_pixels(row, (0.0, 1.0)) for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", default=list(WAYS), metavar="WAY")
    for name in ("--weights", "--test", "--lpips"):
        parser.add_argument(name, required=True)
    parser.add_argument("--data", required=True, nargs="+", help="folders of images to train on")
    parser.add_argument("--budgets", nargs="+", default=["80K", "270K", "670K", "1.3M"])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--search-minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="points trained side by side")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    at = Places(arguments.runs.resolve())
    at.runs.mkdir(parents=True, exist_ok=True)
    prepare(at, arguments)
    outcome = searched(at, arguments) if set(arguments.ways) - NARROW else None
    if "widths" in arguments.ways:
        search_widths(at)
    points = list(itertools.product(arguments.seeds, arguments.budgets, arguments.ways))
    with ThreadPoolExecutor(arguments.jobs) as side_by_side:  # what is done there runs in processes of its own
        folders = list(
            side_by_side.map(
                lambda p: trained(way=p[2], budget=p[1], seed=p[0], at=at, outcome=outcome, arguments=arguments), points
            )
        )
    torch.set_num_threads(arguments.jobs * torch.get_num_threads())
    for (seed, budget, way), folder in zip(points, folders, strict=True):
        keep(measured(way, budget, seed, folder, outcome, at, arguments))
    for way in arguments.ways:
        own = [f for (seed, _, w), f in zip(points, folders, strict=True) if w == way and seed == arguments.seeds[0]]
        models = [teacher(at), *map(student, own)]
        pictured(models, test_images(arguments), places.IMAGES / f"taef2-{way}.png")
        note_pictured(way, arguments)
    results_page.write()


def facts_of(
    way: str, budget: str, seed: int, folder: Path, outcome: Outcome | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """How a point was made."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    facts = json.loads((folder / "run.json").read_text())
    searched_first = outcome is not None and way not in NARROW
    return {
        "way": way,
        "budget": budget,
        "seed": seed,
        **json.loads((folder / HOW).read_text()),
        "minutes": yaml.safe_load((folder / "recipe.yaml").read_text())["train"]["max_minutes"],
        "search_minutes": arguments.search_minutes if searched_first else 0.0,
        "rank_correlation": outcome.scores.correlation if outcome is not None and searched_first else None,
        "steps": [r for r in records if r["kind"] == "train"][-1]["step"],
        "date": places.today(),
        "hardware": facts["hardware"],
        "versions": facts["versions"],
    }


def note_pictured(way: str, arguments: argparse.Namespace) -> None:
    """Which of a way's points its picture shows: those that were asked for, of the first seed."""
    rows = json.loads(RESULTS.read_text())
    for row in (r for r in rows if r["way"] == way):
        row["pictured"] = row["budget"] in arguments.budgets and row["seed"] == arguments.seeds[0]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def keep(made: dict[str, Any]) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    key = ("way", "budget", "seed", "minutes", "changes")
    rows = [r for r in rows if [r[k] for k in key] != [made[k] for k in key]]
    RESULTS.write_text(json.dumps([*rows, made], indent=1) + "\n")
    print({k: made[k] for k in ("way", "budget", "seed", "steps", "parameters", "PSNR", "SSIM", "LPIPS") if k in made})


if __name__ == "__main__":
    main()
