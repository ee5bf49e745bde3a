"""The adversarial stage of Sec. 4.1: the shipped CIFAR-10 autoencoder learns on with LPIPS and the hinge loss.

    python benchmarks/adversarial.py [NAME ...] --data TRAIN --test TEST --vgg LPIPS_VGG --alex LPIPS_ALEX
        --features RESNET --runs RUNS [--minutes 10] [--seeds 0 1 2] [--jobs 1]

continues `cifar10-ae-64` by what STAGES changes of the recipe `cifar10-fast`, --jobs runs side by side; measures before
and after (LPIPS by a network that was not learned from), and writes benchmarks/results/adversarial-cpu.json, a picture
and the page. What a run left in --runs is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import places
import results_page
import yaml
from command import run

START = "cifar10-ae-64"
COMMON = [
    f"model.source={START}",
    "model.arguments={}",
    "model.convert=null",
    "model.zero=[]",
    "train.steps=1000000",
    "train.batch_size=8",
    "train.learning_rate=4e-3",
    "loss.perceptual=1",
    "log.every=25",
    "log.validate_every=250",
    "checkpoint.every=1000",
    "log.tensorboard=false",
]
HINGE = ["loss.adversarial=0.5", "loss.adversarial_start=300"]
#: Name -> what it changes.
STAGES: dict[str, list[str]] = {
    "squared error": ["loss.perceptual=0"],
    "LPIPS": [],
    "LPIPS and hinge": [*HINGE, "loss.discriminator={layers: 2}"],
}


def trained(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The folder of a run; made, or gone on with, where it has not ended."""
    folder: Path = arguments.runs.resolve() / f"{places.slug(name)}-{seed}"
    if not (folder / "report.md").is_file():
        sets = [*COMMON, *STAGES[name], f"data.path={arguments.data}", f"output={folder}", f"train.seed={seed}"]
        sets += [f"loss.lpips={{net: vgg, weights: {arguments.vgg}}}", f"train.max_minutes={arguments.minutes:g}"]
        run("train", "cifar10-fast", *(word for s in [*sets, *arguments.sets] for word in ("--set", s)))
    return folder


def measured(models: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What `prismify evaluate` says of each, in order; its pictures become the page's."""
    place = arguments.runs.resolve() / "evaluation"
    words = ["--data", arguments.test, "--size", "32", "--count", str(arguments.count), "--json", "-o", str(place)]
    found = json.loads(run("evaluate", *models, *words, "--lpips", arguments.alex, "--features", arguments.features))
    places.ADVERSARIAL_PICTURE.write_bytes((place / "pictures.png").read_bytes())
    return {name: {"images": found["data"]["images"], "scores": found["models"][name]} for name in models}


def history(folder: Path) -> dict[str, Any]:
    """How a run went: its steps, and the discriminator's share in it."""
    facts = json.loads((folder / "run.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    terms = ("reconstruction", "perceptual", "adversarial", "discriminator", "logits_real", "logits_fake")
    last = train[-max(1, len(train) // 5) :]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    return {
        "minutes": recipe["train"]["max_minutes"],
        "steps": train[-1]["step"],
        "held_out": [(r["step"], round(r["psnr"], 3)) for r in records if r["kind"] == "validation"],
        "last_fifth": {t: statistics.mean(r[t] for r in last) for t in terms if all(t in r for r in last)},
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "date": places.today(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(STAGES))
    for name in ("--data", "--test", "--vgg", "--alex", "--features"):
        parser.add_argument(name, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=10000, help="test images")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    arguments.names = arguments.names or list(STAGES)
    if unknown := set(arguments.names) - set(STAGES):
        parser.error(f"there is no {' or '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    tasks = [(name, seed) for seed in arguments.seeds for name in arguments.names]
    with ThreadPoolExecutor(arguments.jobs) as side_by_side:
        folders = list(side_by_side.map(lambda task: trained(*task, arguments), tasks))
    models = [START, *(str(folder / "model") for folder in folders)]
    found = measured(models, arguments)
    where = {key: history(folders[0])[key] for key in ("date", "hardware", "versions")}
    rows = [{"name": "before", "seed": None, "changes": [], **where, **found[START]}]
    for (name, seed), folder, model in zip(tasks, folders, models[1:], strict=True):
        made = {"name": name, "seed": seed, "changes": [*STAGES[name], *arguments.sets]}
        rows.append({**made, **found[model], **history(folder)})
    kept = json.loads(places.ADVERSARIAL.read_text()) if places.ADVERSARIAL.is_file() else []
    made_now = {(row["name"], row["seed"]) for row in rows}
    rows += [row for row in kept if (row["name"], row["seed"]) not in made_now]
    order = ["before", *STAGES]
    rows.sort(key=lambda row: (order.index(row["name"]), row["seed"] or 0))
    places.ADVERSARIAL.write_text(json.dumps(rows, indent=1) + "\n")
    results_page.write()


if __name__ == "__main__":
    main()
