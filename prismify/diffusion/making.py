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
from .coarse_to_fine import sample_scales, steps_of
from .latents import decoded
from .noising import Noising
from .opening import Opened
from .record import Trained
from .sampling import check_sampler, default_sampler, picture_seed, sample


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person asks a denoiser for.

    Args:
        count: how many pictures.
        steps, sampler: see `sample`; None is 50, "auto" is DDIM, or the Euler method for a flow. What was trained on
            one picture has steps of its own.
        seed: of all pictures; each draws from one of its own.
        label: the class of all pictures, by name or number; None takes the classes in turn.
        prompt: the text of all pictures.
        guidance: away from what the model says without a class; 1 is none.
        size: width and height in pixels; None is the size of the training.
        batch_size: pictures at a time, which changes none of them.
    """

    count: int = 16
    steps: int | None = None
    sampler: str = "auto"
    seed: int = 0
    label: str | None = None
    prompt: str | None = None
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
    steps, sampler = steps_and_sampler(trained, wanted)
    labels = labels_of(opened, wanted)
    if wanted.prompt is not None and opened.texts is None:
        raise RecipeError("--prompt: the model was trained without texts")
    if wanted.guidance != 1 and opened.texts is None and (labels is None or trained.null is None):
        raise RecipeError("--guidance needs a model that was trained with classes and condition.dropout above 0")
    for module in (opened.denoiser, opened.autoencoder, opened.texts):
        if module is not None:
            module.to(device)
    said = None if opened.texts is None else opened.texts([wanted.prompt or "", ""])
    shape = shape_for(opened, wanted.size, device, said) if trained.scales is None else trained.shape
    all_steps = steps * -(-wanted.count // wanted.batch_size)
    for first in range(0, wanted.count, wanted.batch_size):
        mine = range(first, min(first + wanted.batch_size, wanted.count))
        told = labels[mine.start : mine.stop] if labels is not None else None
        before = steps * (first // wanted.batch_size)
        seeds = [picture_seed(wanted.seed, index) for index in mine]
        done = partial(_told, watch, before, all_steps)
        if trained.scales is not None:
            how: dict[str, Any] = {"size": wanted.size, "limits": trained.range, "device": device, "watch": done}
            made = sample_scales(opened.denoiser, noising, trained.scales, shape[0], seeds, **how)
        else:
            made = sample(
                opened.denoiser,
                noising,
                shape,
                seeds,
                steps=steps,
                sampler=sampler,
                labels=told,
                null=trained.null,
                context=None if said is None else said[:1].expand(len(mine), -1, -1),
                empty=None if said is None else said[1:],
                guidance=wanted.guidance,
                limits=trained.range if trained.latents is None else None,
                device=device,
                watch=done,
            )
        names = ["" for _ in mine] if told is None else [trained.classes[int(i)] for i in told]
        yield to_pixels(_images(opened, made), trained.range), names


def _told(watch: Callable[[int, int], None], before: int, all_steps: int, step: int) -> None:
    watch(before + step, all_steps)


def steps_and_sampler(trained: Trained, wanted: Wanted) -> tuple[int, str]:
    """How often the model is asked for a picture, and the sampler that asks.

    Raises:
        RecipeError: they do not fit what was trained.
    """
    noising = Noising(trained.noise)
    if trained.scales is None:
        steps, sampler = 50 if wanted.steps is None else wanted.steps, default_sampler(noising, wanted.sampler)
        check_sampler(noising, sampler, steps)
        return steps, sampler
    for option, is_set in (("steps", wanted.steps is not None), ("sampler", wanted.sampler != "auto")):
        if is_set:
            raise RecipeError(
                f"--{option} is not for a model of one picture, sampled coarse to fine with steps of its own: drop it"
            )
    return steps_of(noising, trained.scales), "coarse to fine"


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
def shape_for(
    opened: Opened, size: tuple[int, int] | None, device: torch.device | str, said: Tensor | None = None
) -> tuple[int, ...]:
    """The shape (C, H, W) of what is denoised for pictures of a size.

    Args:
        size: width and height in pixels; None is the size of the training.
        said: texts, for a model that is told one.

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
    context = None if said is None else said[:1]
    try:
        made = opened.denoiser(probe, torch.zeros(1, dtype=torch.long, device=device), label, context)
        fits = made.shape == probe.shape
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
