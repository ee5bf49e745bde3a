"""What a denoiser learns to make: pixels, the latents of an autoencoder, or what its teacher makes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from ..errors import RecipeError
from ..training.data import Stream, open_data
from ..training.engine import Run, see_that_it_fits
from ..training.models import is_autoencoder, open_model
from ..training.schema import DiffusionRecipe
from .latents import LatentStream, check_cacheable, open_latents, weights_hash
from .record import LatentSpace


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


def open_material(run: Run, recipe: DiffusionRecipe) -> Material:
    """The images of a recipe, or their latents.

    Raises:
        DataError: see `open_data`.
        RecipeError: the autoencoder is none, or images are not the same each time.
    """
    images, held_out = open_data(recipe.data, recipe.train.seed)
    if recipe.autoencoder is None:
        return Material(images, held_out)
    check_cacheable(recipe.data)
    autoencoder = open_model(recipe.autoencoder, run.trust).to(run.device).eval().requires_grad_(False)
    if not is_autoencoder(autoencoder):
        raise RecipeError(f"autoencoder: {type(autoencoder).__name__} has no encode and decode")
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
