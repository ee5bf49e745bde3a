"""Whether a model can be trained on what a person has: shapes, times and classes, seen before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.formats.tensors import separate_state
from ..errors import RecipeError
from ..families import text_encoders
from ..graph.classes import rows_of_classes
from ..training.data import Images
from ..training.schema import Condition, DiffusionRecipe
from .denoiser import Denoiser
from .noising import Noising
from .record import Trained


def classes_of(denoiser: Denoiser, images: Images, condition: Condition) -> tuple[tuple[str, ...], int | None]:
    """The names of the classes that a model is told, and the label that stands for none.

    Raises:
        RecipeError: the images have no classes; or the model takes none, or has too few rows for them.
    """
    if condition.kind != "class":
        return (), None
    name = type(denoiser.model).__name__
    if images.labels is None:
        raise RecipeError(
            f"condition.kind=class, and {images.where} has no classes: they are the names of its folders, or `labels` "
            "of an npz, whole numbers from 0"
        )
    if not denoiser.takes_labels:
        raise RecipeError(f"condition.kind=class, and {name} takes no class: set condition.kind=none")
    count, rows = max(len(images.classes), max(images.labels) + 1), rows_of_classes(denoiser.model)
    if rows is not None and rows < count:
        raise RecipeError(f"{images.where} has {count} classes, and the {name} a table of {rows}")
    if condition.dropout and rows is not None and rows == count:
        raise RecipeError(
            f"the {name} has a table of {rows} classes, all of them in use: guidance needs one more for none, or set "
            "condition.dropout=0"
        )
    return tuple(images.classes), count if condition.dropout else None


def check_guidance(recipe: DiffusionRecipe, null: int | None) -> None:
    """See that pictures on the way can be guided as the recipe wants.

    Raises:
        RecipeError: the model is never told nothing.
    """
    condition = recipe.condition
    if recipe.sampling.guidance != 1 and null is None and (condition.kind != "text" or not condition.dropout):
        raise RecipeError("sampling.guidance goes away from what a model says when told nothing: set condition.dropout")


def open_texts(condition: Condition, device: torch.device | str) -> Any:
    """The encoder of texts that a recipe names, a function of a list of them; None where it tells none.

    Raises:
        SourceError: see `families.text_encoders.open_text_encoder`.
    """
    if condition.encoder is None:
        return None
    return text_encoders().open_text_encoder(Path(condition.encoder)).to(device)


@torch.no_grad()
def see_that_it_denoises(
    denoiser: Denoiser, noising: Noising, probe: Tensor, trained: Trained, context: Tensor | None = None
) -> tuple[Any, ...]:
    """See that a model predicts what has the shape of its input; returns inputs like those of a step.

    Args:
        probe: one clean picture or latent, (1, C, H, W).
        context: a text, (1, L, width).

    Raises:
        RecipeError: it does not; the message says what to set.
    """
    name = type(denoiser.model).__name__
    if getattr(denoiser.model, "prismify_plan", None) is None:
        separate_state(denoiser.model)  # what no file of weights holds is told before hours are spent
    if trained.scales is not None and not denoiser.takes_scale:
        raise RecipeError(f"{name} takes no scale: name a model whose forward does, such as prismify:SinDDM")
    times = noising.times(torch.full((1,), 0.5, device=probe.device))
    label = torch.zeros(1, dtype=torch.long, device=probe.device) if trained.classes else None
    if context is not None and not denoiser.takes_context:
        raise RecipeError(f"condition.kind=text, and {name} takes no text: set condition.kind=none")
    inputs: tuple[Any, ...] = (probe, times, label, context)
    if trained.scales is not None:
        inputs = (probe, times, None, None, torch.zeros_like(times))
    shape = "x".join(map(str, probe.shape[1:]))
    was_training = denoiser.training
    denoiser.eval()
    try:
        made = denoiser(*inputs)
    except Exception as error:  # whatever somebody's model raises
        if isinstance(error, (RecipeError, torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
            raise
        text = " ".join(str(error).split())[:160]
        hint = (
            "set data.size, data.channels" if trained.latents is None else "build it for such latents, or set data.size"
        )
        if trained.scales is not None:
            hint = "name a model that takes any size, or set data.channels"
        hint += "" if trained.classes or not denoiser.takes_labels else ", or condition.kind=class"
        hint += "" if context is not None or not denoiser.takes_context else ", or condition.kind=text"
        raise RecipeError(f"{name} takes no {shape} at a time ({text}): {hint}") from error
    finally:
        denoiser.train(was_training)
    if made.shape != probe.shape:
        raise RecipeError(f"{name} makes {tuple(made.shape[1:])} of {tuple(probe.shape[1:])}: it is no denoiser of it")
    return inputs
