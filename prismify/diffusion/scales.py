"""One picture at several sizes: which sizes, how blurred each is at a time, and where sampling it starts.

What SinDDM fixes (Kulikov et al., 2023, Sec. 4 and its published code).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import RecipeError
from ..training.schema import Scales
from .noising import Noising
from .record import Pyramid


def sizes_of(width: int, height: int, settings: Scales) -> tuple[float, tuple[tuple[int, int], ...]]:
    """The factor between neighbours, and width and height of every size, coarse to fine, for a picture in pixels.

    Raises:
        RecipeError: the picture is too small for two sizes.
    """
    shrink = math.sqrt(width * height / settings.max_pixels)
    if shrink > 1:
        width, height = max(1, int(width / shrink)), max(1, int(height / shrink))
    short, long = sorted((width, height))
    least, most = settings.shortest
    smallest = min(most, max(least, round(math.sqrt(settings.area * short / long))))
    steps = round(math.log(short / smallest) / math.log(settings.factor))
    if steps < 1:
        needed = math.ceil(smallest * math.sqrt(settings.factor))
        raise RecipeError(
            f"a picture of {width}x{height} is too small for two scales: its shorter side must have {needed} pixels, "
            "or set scales.area and scales.shortest"
        )
    factor = math.exp(math.log(short / smallest) / steps)
    return factor, shrunk(width, height, factor, steps + 1)


def shrunk(width: int, height: int, factor: float, count: int) -> tuple[tuple[int, int], ...]:
    """`count` sizes up to a width and a height, coarse to fine, each side `factor` times the one before it."""
    shares = [factor**step for step in reversed(range(count))]
    return tuple((max(1, round(width / share)), max(1, round(height / share))) for share in shares)


def sizes_for(scales: Pyramid, size: tuple[int, int] | None) -> tuple[tuple[int, int], ...]:
    """Sizes for pictures of any width and height; None is the size of the training."""
    return scales.sizes if size is None else shrunk(*size, scales.factor, len(scales.sizes))


def distance(sharp: Tensor, blurry: Tensor, limits: tuple[float, float]) -> float:
    """How far a picture lies from itself enlarged: SinDDM's `rescale_losses`; two tensors of one shape.

    The published code subtracts bytes, so that what is below 0 wraps around to nearly 256. Its numbers are about ten
    times those of a plain difference, and the times that sampling starts at follow from them: they are kept.

    Args:
        limits: black and white.
    """
    black, white = limits
    levels = [((t - black) * (255 / (white - black))).round() for t in (sharp, blurry)]
    wrapped = (levels[0] - levels[1]).remainder(256)
    return float(wrapped.double().norm() / wrapped.numel())


def gammas(noising: Noising, distances: Sequence[float]) -> Tensor:
    """The share of the blurred picture in what is noised, at each time: (sizes, timesteps), the coarsest 0.

    A picture is blurred as far as noise hides it: sigma(t) over the distance, at most 1.
    """
    sigmas = _sigmas(noising)
    rows = [torch.zeros_like(sigmas)]
    rows += [(sigmas / max(value, 1e-12)).clamp(0, 1) for value in distances]
    return torch.stack(rows)


def starts(noising: Noising, distances: Sequence[float]) -> list[int]:
    """The time at which sampling each size starts: the last, of pure noise; then where noise hides the distance."""
    last, sigmas = noising.settings.timesteps - 1, _sigmas(noising)
    hidden = [sigmas > value for value in distances]
    return [last, *(int(each.to(torch.uint8).argmax()) if bool(each.any()) else last for each in hidden)]


def _sigmas(noising: Noising) -> Tensor:
    """Noise over signal at each time, shape (timesteps,)."""
    return ((1 - noising.kept) / noising.kept).sqrt()
