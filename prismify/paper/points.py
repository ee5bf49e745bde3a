"""Points of Table 4 and Figure 1: every method trained as long and measured; each is kept as soon as it is made."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.atomic import whole_file
from ..checkpoint.manifest import read_json, write_json
from ..errors import OutputError
from ..metrics.evaluation import evaluate
from ..metrics.judges import Judges
from ..recipes import carry_out
from ..training.data import Stream, open_images, order_of
from ..training.engine.journal import read_records
from ..training.models import open_model
from ..training.recipe import read_recipe, read_recorded
from ..training.schema import Data, ModelSource, Recipe
from .budgets import Budget
from .methods import Method

#: What a point that was trained can be measured by once more.
_MEASURED = {"test", "count", "judged"}


@dataclass(frozen=True)
class Setting:
    """What all points of a table or figure share.

    Args:
        data, test: images to train on and to measure on (of CIFAR10 its test images).
        budget: how long, and how wide.
        size: of the images' sides.
        count: test images, at most.
        judged: "lpips" and "features" -> the file of its weights, as `prismify evaluate` takes it, or None.
        sets: further changes of the recipe, such as train.device=cuda.
    """

    data: str
    test: str
    budget: Budget
    size: int = 32
    count: int | None = None
    judged: dict[str, str | None] = field(default_factory=lambda: {"lpips": None, "features": None})
    sets: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        budget = self.budget
        return {
            "budget": budget.name,
            "recipe": budget.recipe,
            "channels": budget.channels,
            "minutes": budget.minutes,
            "rates": dict(budget.rates),
            "sets": [*budget.sets, *self.sets],
            "data": self.data,
            "size": self.size,
            "test": self.test,
            "count": self.count,
            "judged": self.judged,
        }


def device_of(setting: Setting) -> torch.device:
    """Where points are measured: where they train."""
    device = _recipe((), setting, []).train.device
    return torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")


def made_points(
    methods: Iterable[Method],
    seeds: Iterable[int],
    setting: Setting,
    judges: Judges,
    folder: Path,
    watch: Callable[[Any], None],
) -> Iterator[dict[str, Any]]:
    """Every method by every seed, from the folder where it was made before; seeds in the outer loop.

    What was trained and is to be measured otherwise (other test images, other judges) is not trained again.

    Args:
        judges: what measures beside PSNR and SSIM: what `setting` names, opened.
        folder: holds `points`, a JSON each, and `runs` with their models.
        watch: is told what a run tells.

    Raises:
        OutputError: the folder cannot be written, or holds a point or a run of another setting or method.
    """
    chosen = list(methods)
    for seed in seeds:
        for method in chosen:
            run = run_folder(method, seed, folder)
            kept = folder / "points" / f"{run.name}.json"
            if kept.is_file():
                point = read_json(kept)
                its = point.get("setting") or {}
                changed = [k for k, v in setting.as_data().items() if its.get(k) != v]
                changed += ["method"] if point.get("changes") != list(method.sets) else []
                if set(changed) - _MEASURED:
                    raise OutputError(f"{kept} was made with another {' and '.join(changed)}: name another output")
                if not changed:
                    yield point
                    continue
            point = _made(method, seed, setting, judges, run, watch)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(kept) as draft:
                write_json(draft, point)
            yield point


def _made(
    method: Method, seed: int, setting: Setting, judges: Judges, run: Path, watch: Callable[[Any], None]
) -> dict[str, Any]:
    """Train and measure one point; a run that was stopped goes on, and one that came to its end is only measured."""
    recipe = _recipe(method.sets, setting, [f"train.seed={seed}", f"output={json.dumps(str(run))}"])
    if not (run / "report.md").is_file():  # what a run writes when it has ended
        carry_out(recipe, watch)
    elif dataclasses.replace(read_recorded(run / "recipe.yaml"), output=recipe.output) != recipe:
        raise OutputError(f"{run} was trained by another recipe: name another output")
    model = open_model(ModelSource(source=str(run / "model")))
    seen = Data(path=setting.test, split="test", size=setting.size, range=recipe.data.range, validation=0)
    images = open_images(seen)
    if setting.count is not None and setting.count < len(images):
        images = images.subset(order_of(len(images), 0, 0)[: setting.count].sort().values.tolist())
    found = evaluate({"it": model}, Stream(images, seen, 0), judges, device=device_of(setting))
    facts = read_json(run / "run.json")
    steps = [row["step"] for row in read_records(run) if row["kind"] == "train"]
    return {
        "family": method.family,
        "name": method.name,
        "changes": list(method.sets),
        "seed": seed,
        "setting": setting.as_data(),
        "images": found.images,
        "parameters": found.parameters["it"],
        "steps": steps[-1],
        "scores": {
            key: {"mean": value.mean, "deviation": value.deviation, "over": value.over}
            for key, value in found.rows["it"].items()
        },
        "of_images": {key: value.mean for key, value in found.rows.get("originals", {}).items()},
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "date": datetime.date.today().isoformat(),
    }


def _recipe(changes: Iterable[str], setting: Setting, more: Iterable[str]) -> Recipe:
    budget = setting.budget
    sets = [*changes, *budget.sets, f"data.path={json.dumps(setting.data)}", f"data.size={setting.size}", *more]
    sets += ["log.tensorboard=false", "log.images=0"]
    if budget.minutes is not None:
        sets += ["train.steps=1000000", f"train.max_minutes={budget.minutes}"]
    return read_recipe(budget.recipe, [*sets, *setting.sets])


def run_folder(method: Method, seed: int, folder: Path) -> Path:
    """Where the run of a point lies in the folder of its figure."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{method.family} {method.name}".lower()).strip("-")
    return folder / "runs" / f"{slug}-{seed}"
