"""Pictures from noise, coarse to fine: each size starts from the one before it, enlarged and noised (SinDDM)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import Denoiser
from .noising import Noising
from .record import Pyramid
from .scales import gammas, sizes_for, starts

#: The most that is taken back of the blur in one step: near 1, errors would be divided by nearly nothing.
_MOST_SHARPENED = 0.55


@torch.no_grad()
def sample_scales(
    denoiser: Denoiser,
    noising: Noising,
    scales: Pyramid,
    channels: int,
    seeds: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    device: torch.device | str = "cpu",
    watch: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Sample what was trained on one picture: shape (len(seeds), channels, height, width), float32.

    Every picture has a generator of its own, as in `sample`.

    Args:
        denoiser: in evaluation mode, and takes a scale.
        seeds: one a picture.
        size: width and height in pixels; None is the size of the training.
        limits: black and white, to which estimates are cut.
        watch: is told the number of steps that are done, of `steps_of`.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shares = gammas(noising, scales.distances).clamp_max(_MOST_SHARPENED)
    made = torch.zeros(len(seeds), channels, 1, 1, device=device)
    done = 0
    for scale, (start, (width, height)) in enumerate(
        zip(starts(noising, scales.distances), sizes_for(scales, size), strict=True)
    ):
        blurry = F.interpolate(made, size=(height, width), mode="bilinear")
        x = _noise(generators, blurry)
        if scale:
            x = noising.noised(blurry, x, _all(start, x))
        for time in range(start, -1, -1):
            predicted = denoiser(x, _all(time, x), scale=_all(scale, x))
            mixed = noising.clean(predicted.float(), x, _all(time, x))
            x = _step(noising, time, x, mixed, blurry, shares[scale], generators, limits)
            done += 1
            watch(done)
        made = x
    return made


def steps_of(noising: Noising, scales: Pyramid) -> int:
    """How often the model is asked for a picture."""
    return sum(start + 1 for start in starts(noising, scales.distances))


def _step(
    noising: Noising,
    time: int,
    x: Tensor,
    mixed: Tensor,
    blurry: Tensor,
    shares: Tensor,
    generators: Sequence[torch.Generator],
    limits: tuple[float, float],
) -> Tensor:
    """From a time to the one before it: what is there less blurred, and the noise that was found, less of it.

    The coarsest size, which nothing blurs, draws new noise as DDPM does (Ho et al., 2020, Eq. 7); the others draw none.

    Args:
        mixed: the estimate of what was noised: `shares[time] * blurry + (1 - shares[time]) * sharp`.
    """
    share = float(shares[time])
    sharp = (mixed - share * blurry) / (1 - share)
    if time == 0:
        return sharp.clamp(*limits)
    kept, before, less = (float(value) for value in (noising.kept[time], noising.kept[time - 1], shares[time - 1]))
    target = (less * blurry + (1 - less) * sharp).clamp(*limits)
    noise = (x - math.sqrt(kept) * mixed.clamp(*limits)) / math.sqrt(1 - kept)
    if share > 0:  # not the coarsest
        return math.sqrt(before) * target + math.sqrt(1 - before) * noise
    new = (1 - before) / (1 - kept) * (1 - kept / before)
    old = max(0.0, 1 - before - new)
    return math.sqrt(before) * target + math.sqrt(old) * noise + math.sqrt(new) * _noise(generators, x)


def _noise(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    return torch.stack([torch.randn(like.shape[1:], generator=g) for g in generators]).to(like.device)


def _all(value: int, like: Tensor) -> Tensor:
    return torch.full((len(like),), value, device=like.device)
