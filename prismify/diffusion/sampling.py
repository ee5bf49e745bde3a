"""Pictures from noise: diffusers' schedulers, one generator a picture, guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import RecipeError
from ..families import schedulers
from ..generators import mixed
from .denoiser import Denoiser
from .noising import Noising

#: What a person may name; a flow is sampled by "euler", the Euler method along its lines.
SAMPLERS = ("ddpm", "ddim", "dpm++", "euler")


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noising: Noising,
    shape: tuple[int, ...],
    seeds: Sequence[int],
    *,
    steps: int = 50,
    sampler: str = "ddim",
    labels: Tensor | None = None,
    null: int | None = None,
    context: Tensor | None = None,
    empty: Tensor | None = None,
    guidance: float = 1.0,
    limits: tuple[float, float] | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Sample what a denoiser was trained on: shape (len(seeds), *shape), float32.

    Every picture has a generator of its own, on the CPU: it is the same alone, in a batch, and on another device, but
    for the order in which an engine sums.

    Args:
        denoiser: in evaluation mode.
        shape: of one picture or latent, (C, H, W).
        seeds: one a picture.
        steps: how many times the model is asked.
        sampler: one of `SAMPLERS`.
        labels: the class of each picture, shape (B,).
        null: the label that stands for no class, which guidance needs.
        context: the text of each picture, shape (B, L, width).
        empty: the text that says nothing, shape (1, L, width), which guidance needs.
        guidance: 1 takes the model's word; above it, away from what it says when told nothing (Ho & Salimans, 2022).
        limits: black and white of pixels, to which estimates of the clean picture are cut; None cuts none.
        watch: is told the number of steps that are done.

    Raises:
        RecipeError: the sampler does not fit, or guidance has no class to go by.
    """
    check_sampler(noising, sampler, steps)
    scheduler = schedulers().sampling_scheduler(noising.scheduler, sampler, steps, device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    told = {name: value.to(device) for name, value in (("labels", labels), ("context", context)) if value is not None}
    untold = _untold(told, null, empty)
    if guidance != 1 and not untold:
        raise RecipeError("guidance goes away from what a model says without a class: it needs a model trained so")
    steps_noise = {} if noising.is_flow else {"generator": generators}
    for number, time in enumerate(scheduler.timesteps):
        seen = x if noising.is_flow else scheduler.scale_model_input(x, time)
        times = (time if noising.is_flow else time.long()).to(device).expand(len(x))
        predicted = denoiser(seen, times, **told)
        if guidance != 1:
            without = denoiser(seen, times, **{**told, **untold})
            predicted = without + guidance * (predicted - without)
        if limits is not None:
            within = noising.clean(predicted, seen, times).clamp(*limits)
            predicted = noising.meaning(within, seen, times)
        x = scheduler.step(predicted, time, x, **steps_noise).prev_sample
        watch(number + 1)
    return x.float()


def _untold(told: dict[str, Tensor], null: int | None, empty: Tensor | None) -> dict[str, Tensor]:
    """What a model is given instead of what it is told, to say what it says when told nothing."""
    untold = {}
    if "labels" in told and null is not None:
        untold["labels"] = torch.full_like(told["labels"], null)
    if "context" in told and empty is not None:
        untold["context"] = empty.to(told["context"].device).expand(len(told["context"]), -1, -1)
    return untold


def default_sampler(noising: Noising, name: str) -> str:
    """The sampler that a name means: "auto" is DDIM, or the Euler method for a flow."""
    return ("euler" if noising.is_flow else "ddim") if name == "auto" else name


def check_sampler(noising: Noising, sampler: str, steps: int) -> None:
    """See that a sampler fits what was trained.

    Raises:
        RecipeError: it does not.
    """
    if sampler not in SAMPLERS:
        raise RecipeError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    if noising.is_flow and sampler != "euler":
        raise RecipeError(f"sampler {sampler!r} is for schedules of betas: a flow is sampled by euler")
    if not 1 <= steps <= noising.settings.timesteps:
        raise RecipeError(f"steps {steps} must lie between 1 and the {noising.settings.timesteps} of the training")


def picture_seed(seed: int, index: int) -> int:
    """The seed of picture number `index` of those that a person asked for by one seed."""
    return mixed(seed, index)
