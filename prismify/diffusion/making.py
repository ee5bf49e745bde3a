"""Pictures of an opened denoiser, batch by batch: what a person asks for, seen to fit, sampled and decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import RecipeError
from ..training.pictures import to_pixels
from .latents import decoded
from .noising import Noising
from .opening import Opened
from .sampling import check_sampler, default_sampler, picture_seed, sample


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person asks a denoiser for.

    Args:
        count: how many pictures.
        steps, sampler: see `sample`; "auto" is DDIM, or the Euler method for a flow.
        seed: of all pictures; each draws from one of its own.
        label: the class of all pictures, by name or number; None takes the classes in turn.
        guidance: away from what the model says without a class; 1 is none.
        size: width and height in pixels; None is the size of the training.
        batch_size: pictures at a time, which changes none of them.
    """

    count: int = 16
    steps: int = 50
    sampler: str = "auto"
    seed: int = 0
    label: str | None = None
    guidance: float = 1.0
    size: tuple[int, int] | None = None
    batch_size: int = 64


def make_pictures(
    opened: Opened,
    wanted: Wanted,
    device: torch.device | str = "cpu",
    watch: Callable[[int, int], None] = lambda done, steps: None,
) -> Iterator[tuple[Any, list[str]]]:
    """Batches of pictures, uint8 (B, H, W, 3), and the class of each ("" where it has none).

    Args:
        watch: is told how many steps are done of all there are.

    Raises:
        RecipeError: the denoiser does not make what is asked for.
    """
    trained, noising = opened.trained, Noising(opened.trained.noise)
    sampler = default_sampler(noising, wanted.sampler)
    check_sampler(noising, sampler, wanted.steps)
    labels = labels_of(opened, wanted)
    if wanted.guidance != 1 and (labels is None or trained.null is None):
        raise RecipeError("--guidance needs a model that was trained with classes and condition.dropout above 0")
    for module in (opened.denoiser, opened.autoencoder):
        if module is not None:
            module.to(device)
    shape = shape_for(opened, wanted.size, device)
    all_steps = wanted.steps * -(-wanted.count // wanted.batch_size)
    for first in range(0, wanted.count, wanted.batch_size):
        mine = range(first, min(first + wanted.batch_size, wanted.count))
        told = labels[mine.start : mine.stop] if labels is not None else None
        before = wanted.steps * (first // wanted.batch_size)
        made = sample(
            opened.denoiser,
            noising,
            shape,
            [picture_seed(wanted.seed, index) for index in mine],
            steps=wanted.steps,
            sampler=sampler,
            labels=told,
            null=trained.null,
            guidance=wanted.guidance,
            clip=trained.latents is None,
            device=device,
            watch=partial(_told, watch, before, all_steps),
        )
        names = ["" for _ in mine] if told is None else [trained.classes[int(i)] for i in told]
        yield to_pixels(_images(opened, made), trained.range), names


def _told(watch: Callable[[int, int], None], before: int, all_steps: int, step: int) -> None:
    watch(before + step, all_steps)


def labels_of(opened: Opened, wanted: Wanted) -> Tensor | None:
    """The class of every picture, (count,); None where the model was told none.

    Raises:
        RecipeError: there is no such class.
    """
    classes = opened.trained.classes
    if not classes:
        if wanted.label is not None:
            raise RecipeError(f"class {wanted.label!r}: the model was trained without classes")
        return None
    if wanted.label is None:
        return torch.arange(wanted.count) % len(classes)
    if wanted.label in classes:
        number = classes.index(wanted.label)
    elif wanted.label.isdecimal() and int(wanted.label) < len(classes):
        number = int(wanted.label)
    else:
        shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
        raise RecipeError(f"class {wanted.label!r} is not one of {shown}, nor a number from 0 to {len(classes) - 1}")
    return torch.full((wanted.count,), number)


@torch.no_grad()
def shape_for(opened: Opened, size: tuple[int, int] | None, device: torch.device | str) -> tuple[int, ...]:
    """The shape (C, H, W) of what is denoised for pictures of a size.

    Args:
        size: width and height in pixels; None is the size of the training.

    Raises:
        RecipeError: no latent makes pictures of that size; or the model does not take it.
    """
    trained = opened.trained
    if size is None:
        return trained.shape
    width, height = size
    factor = 1
    if opened.autoencoder is not None:
        factor = _images(opened, torch.zeros(1, *trained.shape, device=device)).shape[-1] // trained.shape[-1]
        if width % factor or height % factor:
            raise RecipeError(f"size {width}x{height}: pictures from latents are multiples of {factor} a side")
    shape = (trained.shape[0], height // factor, width // factor)
    probe = torch.zeros(1, *shape, device=device)
    label = torch.zeros(1, dtype=torch.long, device=device) if trained.classes else None
    try:
        fits = opened.denoiser(probe, torch.zeros(1, dtype=torch.long, device=device), label).shape == probe.shape
        why = "its result has another size"
    except (RuntimeError, ValueError, TypeError) as error:  # what models raise at a size that does not divide
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        fits, why = False, " ".join(str(error).split())[:120]
    if not fits:
        raise RecipeError(f"size {width}x{height}: {type(opened.denoiser.model).__name__} does not take it ({why})")
    return shape


def _images(opened: Opened, made: Tensor) -> Tensor:
    """Pictures of what a denoiser made."""
    latents = opened.trained.latents
    if latents is None or opened.autoencoder is None:
        return made
    return decoded(opened.autoencoder, made, latents.mean, latents.deviation)
