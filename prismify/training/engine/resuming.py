"""Going on from a state: which one, and whether it is of the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import OutputError, RecipeError
from ..recipe import changed_keys, recipe_data, recorded_data
from ..schema import Recipe
from .state import read_state, states

#: What a run cannot change on the way and still be the same run.
_FIXED = (
    "recipe",
    "model.",
    "teacher",
    "autoencoder",
    "data.size",
    "data.channels",
    "data.range",
    "train.seed",
    "noise.",
    "condition.",
    "scales",
    "latents.scale",
    "distil.feature_layers",
)


def newest_state(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state in a run's folder that can be read, or None; damaged ones are told."""
    for step in reversed(states(folder / "state")):
        try:
            return read_state(folder / "state", step)
        except OutputError as error:
            say(f"{error}; taking the one before")
    return None


def changes_since(state: dict[str, Any], recipe: Recipe, fingerprint: str, folder: Path) -> Iterator[str]:
    """What is another than when a state was written, a line each.

    Args:
        fingerprint: of the images now.

    Raises:
        RecipeError: it is of another run.
    """
    before = recorded_data(state["recipe"], str(folder))  # with what was not known then
    changed = changed_keys(before, recipe_data(recipe))
    changed.pop("output", None)
    for key, (was, now) in changed.items():
        if key.startswith(_FIXED):
            raise RecipeError(f"{folder} holds a run with {key}={was}, not {now}: name another output, or --restart")
        yield f"changed since step {state['step']}: {key} was {was}, is {now}"
    if state["data"] != fingerprint:
        yield (
            f"the images changed since step {state['step']} ({state['data']}; now {fingerprint}): "
            "the run goes on, in another order than it would have"
        )
