"""How a searched model is run on images: as they are, or, of a denoiser, noised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..diffusion import Denoiser, Noising
from ..errors import RecipeError, one_line
from ..generators import mixed
from ..graph.classes import rows_of_classes
from ..training.losses import output_of
from ..training.models import is_autoencoder
from ..training.schema import Noise

#: What a model is given, (B, ...) each.
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Asking:
    """What a model is given, and what of its results is compared.

    Args:
        inputs: from images (B, C, H, W) and a seed.
        answer: from those, the output.
        answer_of: the same of another model, which takes the same inputs.
        reconstructs: whether the output is to be like the images.
    """

    inputs: Callable[[Tensor, int], Inputs]
    answer: Callable[..., Tensor]
    answer_of: Callable[[nn.Module], Callable[..., Tensor]]
    reconstructs: bool


def asking_of(model: nn.Module, noise: Noise | None, probe: Tensor) -> Asking:
    """A model is asked for its output on images, or, where `noise` says how they are noised, for what it says of them.

    Args:
        probe: an image as a batch of one, on which it is tried.

    Raises:
        RecipeError: it does not run on that, as it takes other sizes, no time, or a text besides.
    """
    if noise is None:
        of = partial(partial, output_of)
        asking = Asking(lambda images, seed: (images,), of(model), of, is_autoencoder(model))
    else:
        denoiser = Denoiser(model)
        classes = rows_of_classes(model) if denoiser.takes_labels else None
        asking = Asking(partial(_noised, Noising(noise), classes), denoiser, Denoiser, reconstructs=False)
    try:
        with torch.no_grad():
            asking.answer(*asking.inputs(probe, 0))
    except Exception as error:  # whatever somebody's model raises
        if isinstance(error, (RecipeError, torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
            raise
        given = "images" if noise is None else "noised images and times, and told no text,"
        hint = "; of a denoiser say how images are noised, --set noise={}" if noise is None else ""
        size = f"{probe.shape[3]}x{probe.shape[2]} in {probe.shape[1]} channels"
        raise RecipeError(
            f"{type(model).__name__} given {given} of {size} fails ({one_line(error)}): set data.size, or "
            f"data.channels{hint}"
        ) from error
    return asking


def _noised(noising: Noising, classes: int | None, images: Tensor, seed: int) -> Inputs:
    """Noised images, their times, and of a model with a table of classes any of these."""
    noised, times = noising.drawn(images, seed)
    if classes is None:
        return noised, times
    draw = torch.Generator().manual_seed(mixed(seed, 1))
    return noised, times, torch.randint(classes, (len(images),), generator=draw).to(images.device)
