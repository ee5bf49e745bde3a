"""What a denoiser learns to make: pixels, the latents of an autoencoder, or what its teacher makes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.shipped import local_folder_of
from ..errors import RecipeError
from ..graph.classes import rows_of_classes
from ..training.data import Images, Stream, open_data
from ..training.engine import Run, see_that_it_fits
from ..training.model_files import DENOISING_NAME
from ..training.models import is_autoencoder, open_model
from ..training.schema import Data, DiffusionRecipe, Teaching
from .denoiser import Denoiser
from .latents import LatentStream, check_cacheable, open_latents, weights_hash
from .noising import Noising
from .record import LatentSpace, Trained, read_record
from .sampling import default_sampler, picture_seed, sample
from .shards import made_shards


@dataclass(frozen=True)
class Material:
    """What is noised, and what turns it into pictures.

    Args:
        stream, held_out: to train on, and to measure on.
        autoencoder, space: of latents.
    """

    stream: Stream
    held_out: Stream | None
    autoencoder: nn.Module | None = None
    space: LatentSpace | None = None


def open_material(run: Run, recipe: DiffusionRecipe, teacher: Denoiser | None = None) -> Material:
    """The images of a recipe, their latents, or what its teacher makes.

    Args:
        teacher: in evaluation mode, on the run's device.

    Raises:
        DataError: see `open_data`.
        RecipeError: the autoencoder is none, or images are not the same each time; or there is no teacher.
    """
    if recipe.data.kind == "teacher":
        return _of_teacher(run, recipe, teacher)
    images, held_out = open_data(recipe.data, recipe.train.seed)
    for stream in (images, held_out):
        if stream is not None:
            _check_told(stream, recipe)
    lacks = held_out is not None and held_out.images.labels is None and images.images.labels is not None
    if recipe.condition.kind == "class" and held_out is not None and lacks:
        raise RecipeError(f"{held_out.images.where} is measured on, and has classes that training lacks, or none")
    if recipe.autoencoder is None:
        return Material(images, held_out)
    check_cacheable(recipe.data)
    autoencoder = _autoencoder(run, recipe)
    see_that_it_fits(autoencoder, images.first().to(run.device), whole=True)
    hashed = weights_hash(autoencoder)
    latents = open_latents(run, autoencoder, hashed, images, recipe.latents, flips=recipe.data.flip)
    held: LatentStream | None = None
    if held_out is not None:
        held = open_latents(run, autoencoder, hashed, held_out, recipe.latents, flips=False)
        held = replace(held, mean=latents.mean, deviation=latents.deviation)  # the space is that of the training
    mean, deviation = (tuple(v.flatten().tolist()) for v in (latents.mean, latents.deviation))
    space = LatentSpace(autoencoder=recipe.autoencoder, hash=hashed, mean=mean, deviation=deviation)
    return Material(latents, held, autoencoder, space)


def teachers_record(source: str, recipe: DiffusionRecipe) -> Trained | None:
    """How a teacher was trained, where its folder says so.

    Raises:
        RecipeError: with other noise than the student is: they would not speak of the same.
    """
    folder = local_folder_of(source)
    if not (folder / DENOISING_NAME).is_file():
        return None
    record = read_record(folder)
    if record.latents is None and recipe.autoencoder is None and record.range != recipe.data.range:
        raise RecipeError(f"the teacher was trained with data.range={list(record.range)}: set it so")
    if record.noise != recipe.noise:
        ours, its = (dataclasses.asdict(noise) for noise in (recipe.noise, record.noise))
        name = next(name for name in ours if ours[name] != its[name])
        raise RecipeError(f"the teacher was trained with noise.{name}={its[name]}, not {ours[name]}: set it so")
    return record


def _check_told(stream: Stream, recipe: DiffusionRecipe) -> None:
    """See that a model can be told what the recipe wants it told of images, and have it read."""
    if recipe.condition.kind == "text":
        if stream.images.captions is None:
            raise RecipeError(
                f"condition.kind=text, and {stream.images.where} has no texts: they lie beside images, 001.txt beside "
                "001.png, or are `captions` of an npz"
            )
        stream.reads_captions = True


def _autoencoder(run: Run, recipe: DiffusionRecipe) -> nn.Module:
    assert recipe.autoencoder is not None
    autoencoder = open_model(recipe.autoencoder, run.trust).to(run.device).eval().requires_grad_(False)
    if not is_autoencoder(autoencoder):
        raise RecipeError(f"autoencoder: {type(autoencoder).__name__} has no encode and decode")
    return autoencoder


def _of_teacher(run: Run, recipe: DiffusionRecipe, teacher: Denoiser | None) -> Material:
    """What the teacher samples, kept in shards; the first of it is held out."""
    if recipe.condition.kind == "text":
        raise RecipeError("data.kind=teacher: a teacher of texts needs some: name images that have them")
    if teacher is None or recipe.teacher is None:
        raise RecipeError("data.kind=teacher takes what a teacher samples: set teacher to a trained denoiser")
    record = teachers_record(recipe.teacher.source, recipe)
    space = record.latents if record is not None else None
    if space is None and recipe.autoencoder is not None:
        raise RecipeError(
            "data.kind=teacher: the teacher's folder does not say that it makes latents: drop autoencoder"
        )
    if record is None and recipe.data.size is None:
        raise RecipeError("data.kind=teacher: the teacher's folder does not say what it makes: set data.size")
    side = recipe.data.size or 0
    shape = record.shape if record is not None else (recipe.data.channels, side, side)
    classes = record.classes if record is not None else ()
    rows = rows_of_classes(teacher.model)
    if recipe.condition.kind == "class" and not classes and rows is not None:
        classes = tuple(str(number) for number in range(rows - 1))  # the last row says that none is told
    null = record.null if record is not None else len(classes) if classes else None
    held, count = recipe.data.validation, (recipe.distil or Teaching()).samples
    pairs, limits = [(held, count), (0, held)], recipe.data.range if space is None else None
    sets = [_sampled(run, recipe, teacher, shape, classes, first, n, null, limits) for first, n in pairs if n]
    autoencoder = None
    if space is not None:
        autoencoder = open_model(space.autoencoder, run.trust, str(recipe.teacher.source)).to(run.device).eval()
    return Material(sets[0], sets[1] if held else None, autoencoder, space)


def _sampled(
    run: Run,
    recipe: DiffusionRecipe,
    teacher: Denoiser,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    first: int,
    count: int,
    null: int | None,
    limits: tuple[float, float] | None,
) -> LatentStream:
    """Samples number `first` and on."""
    hashed, how, noising = weights_hash(teacher.model), recipe.sampling, Noising(recipe.noise)
    labels = [index % len(classes) for index in range(first, first + count)] if classes else None
    facts: dict[str, Any] = {
        "teacher": hashed,
        "numbers": [first, count],
        "shape": list(shape),
        "noise": dataclasses.asdict(recipe.noise),
        "sampling": dataclasses.asdict(how),
        "classes": len(classes),
        "limits": limits and list(limits),
    }

    def make(mine: range) -> dict[str, Tensor]:
        made = []
        for start in range(0, len(mine), recipe.latents.batch_size):
            numbers = mine[start : start + recipe.latents.batch_size]
            told = torch.tensor([labels[n] for n in numbers]) if labels is not None else None
            made.append(
                sample(
                    teacher,
                    noising,
                    shape,
                    [picture_seed(how.seed, first + n) for n in numbers],
                    steps=how.steps,
                    sampler=default_sampler(noising, how.sampler),
                    labels=told,
                    null=null,
                    guidance=how.guidance,
                    limits=limits,
                    device=run.device,
                ).cpu()
            )
        return {"mean": torch.cat(made)[:, None].contiguous()}

    folder = made_shards(run, recipe.latents.path, hashed, facts, count, make)
    images = Images(
        "samples of the teacher", [f"{hashed}/{first + n}" for n in range(count)], _no_picture, Data(),
        labels=labels, classes=classes,
    )  # fmt: skip
    nothing, one = torch.zeros(shape[0], 1, 1), torch.ones(shape[0], 1, 1)
    return LatentStream(images, Data(), recipe.train.seed, folder=folder, mean=nothing, deviation=one)


def _no_picture(index: int) -> Any:
    raise RuntimeError(f"sample {index} of a teacher lies in its shard")
