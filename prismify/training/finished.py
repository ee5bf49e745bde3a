"""What others read of a run's folder: its model, as far as it came, and how it saw images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint import Trust
from ..checkpoint.formats import read_state as read_weights
from ..checkpoint.manifest import CONFIG_NAME, MANIFEST_NAME
from ..errors import OutputError, RecipeError, SourceError
from .engine import read_state, states
from .models import NO_TRUST, open_model
from .recipe import read_recorded
from .schema import Data, ModelSource, Recipe

#: A run's models, the one to look at first.
MODELS = ("best", "model")
#: Settings of `data` that decide what a model is shown; models measured together must agree on them.
_SEEN_ALIKE = ("size", "channels", "background", "white")


def run_of(path: Path) -> Path | None:
    """The run that a folder is, or holds the model of; None where it is neither."""
    folder = path.parent if path.name in MODELS else path
    return folder if (folder / "run.json").is_file() and (folder / "recipe.yaml").is_file() else None


def run_recipe(folder: Path) -> Recipe:
    """What a run trains, and on what.

    Raises:
        RecipeError: the folder's recipe is damaged.
    """
    return read_recorded(folder / "recipe.yaml")


def run_model(path: Path, trust: Trust = NO_TRUST) -> tuple[nn.Module, str]:
    """A run's model in float32, and which one: its best weights, its last, or those of its newest state.

    Args:
        path: a run's folder, or `best` or `model` in it.

    Raises:
        SourceError: it has written nothing yet; or runs code that is not trusted.
    """
    folder = run_of(path)
    if folder is None:
        raise SourceError(f"{path} is no folder of a run: it has no run.json and recipe.yaml")
    found = path if path != folder else next((folder / n for n in MODELS if (folder / n).is_dir()), None)
    source, where = run_recipe(folder).model, str(folder / "recipe.yaml")
    if found is None:
        step, weights = _newest(folder)
        return _with_weights(open_model(source, trust, where), weights, folder), f"the state of step {step}"
    if (found / MANIFEST_NAME).is_file() or (found / CONFIG_NAME).is_file():
        return open_model(ModelSource(source=str(found)), trust, str(found)), found.name
    weights = read_weights(found / "model.safetensors")
    return _with_weights(open_model(source, trust, where), weights, found), found.name


def _newest(folder: Path) -> tuple[int, Any]:
    why = "it was stopped before it wrote its first state (checkpoint.every)"
    for step in reversed(states(folder / "state")):
        try:
            return step, read_state(folder / "state", step)["parts"]["average"]
        except (OutputError, KeyError, TypeError) as error:
            why = str(error)
    raise SourceError(f"{folder} is a run that has no model yet: {why}")


def _with_weights(model: nn.Module, weights: Any, where: Path) -> nn.Module:
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:160]
        raise SourceError(
            f"{where}: the weights do not fit the {type(model).__name__} of its recipe ({text})"
        ) from error
    return model


def shared_settings(runs: Mapping[str, Data]) -> Data:
    """How images are read for several runs' models.

    Args:
        runs: name -> the `data` of its recipe.

    Raises:
        RecipeError: they saw images otherwise; the message names the setting to give.
    """
    names = list(runs)
    for name in names[1:]:
        for key in _SEEN_ALIKE:
            one, other = getattr(runs[names[0]], key), getattr(runs[name], key)
            if one != other:
                raise RecipeError(
                    f"{names[0]} was trained with data.{key}={one}, {name} with {other}: give --set data.{key}=..., "
                    "or measure them apart"
                )
    if not names:
        return Data(validation=0)
    first = runs[names[0]]
    kept = {key: getattr(first, key) for key in (*_SEEN_ALIKE, "range", "max_pixels", "skip_damaged")}
    return dataclasses.replace(Data(validation=0), **kept)
