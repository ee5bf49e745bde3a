"""Points of Figure 1: every method trained for the same time and measured; each is kept as soon as it is made."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
from ..training.recipe import read_recipe
from ..training.schema import Data, ModelSource
from .methods import Method

#: The recipe that methods change.
RECIPE = "cifar10-fast"


@dataclass(frozen=True)
class Budget:
    """How long a point trains, and on what.

    Args:
        data, test: images to train on and to measure on.
        minutes: for each point.
        size: of the images' sides.
        count: test images, at most.
        sets: further changes of the recipe, such as train.device=cuda.
    """

    data: str
    test: str
    minutes: float = 10.0
    size: int = 32
    count: int | None = None
    sets: tuple[str, ...] = ()


def made_points(
    methods: Iterable[Method], seeds: Iterable[int], budget: Budget, folder: Path, watch: Callable[[Any], None]
) -> Iterator[dict[str, Any]]:
    """Every method by every seed, from the folder where it was made before; seeds in the outer loop.

    Args:
        folder: holds `points`, a JSON each, and `runs` with their models.
        watch: is told what a run tells.

    Raises:
        OutputError: the folder cannot be written, or holds a point of another budget.
    """
    chosen = list(methods)
    for seed in seeds:
        for method in chosen:
            kept = folder / "points" / f"{_slug(method)}-{seed}.json"
            if kept.is_file():
                point = read_json(kept)
                changed = [k for k, v in _plain(budget).items() if (point.get("budget") or {}).get(k) != v]
                if changed:
                    raise OutputError(f"{kept} was made with another {' and '.join(changed)}: name another output")
                yield point
                continue
            point = _made(method, seed, budget, folder / "runs" / kept.stem, watch)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(kept) as draft:
                write_json(draft, point)
            yield point


def _made(method: Method, seed: int, budget: Budget, run: Path, watch: Callable[[Any], None]) -> dict[str, Any]:
    """Train and measure one point; a run that was stopped goes on."""
    sets = [*method.sets, *budget.sets, f"train.max_minutes={budget.minutes}", f"train.seed={seed}"]
    sets += [
        "train.steps=1000000",
        f"data.path={json.dumps(budget.data)}",
        f"data.size={budget.size}",
        f"output={json.dumps(str(run))}",
    ]
    recipe = read_recipe(RECIPE, [*sets, "log.tensorboard=false", "log.images=0"])
    carry_out(recipe, watch)
    device = torch.device("cuda" if recipe.train.device == "cuda" else "cpu")
    model = open_model(ModelSource(source=str(run / "model")))
    seen = Data(path=budget.test, size=budget.size, range=recipe.data.range, validation=0)
    images = open_images(seen)
    if budget.count is not None and budget.count < len(images):
        images = images.subset(order_of(len(images), 0, 0)[: budget.count].sort().values.tolist())
    found = evaluate({"it": model}, Stream(images, seen, 0), Judges(), device=device)
    facts = read_json(run / "run.json")
    steps = [row["step"] for row in read_records(run) if row["kind"] == "train"]
    return {
        "family": method.family,
        "name": method.name,
        "changes": list(method.sets),
        "seed": seed,
        "budget": _plain(budget),
        "images": found.images,
        "parameters": found.parameters["it"],
        "steps": steps[-1],
        "scores": {key: {"mean": value.mean, "deviation": value.deviation} for key, value in found.rows["it"].items()},
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "date": datetime.date.today().isoformat(),
    }


def _plain(budget: Budget) -> dict[str, Any]:
    return {**vars(budget), "sets": list(budget.sets)}


def _slug(method: Method) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method.family} {method.name}".lower()).strip("-")
