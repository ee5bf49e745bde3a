"""Train a denoiser on one picture at several sizes: the recipe `diffusion` with `scales` (SinDDM; Sec. 4.2).

Reads from top to bottom: the picture's sizes, one step, what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prismify.checkpoint import Trust
from prismify.diffusion import Denoiser, Noising
from prismify.diffusion.coarse_to_fine import sample_scales
from prismify.diffusion.fitting import see_that_it_denoises
from prismify.diffusion.pyramid import ScaleStream, Sizes, sizes_of_picture
from prismify.diffusion.record import Trained, record_files
from prismify.diffusion.sampling import picture_seed
from prismify.diffusion.scales import gammas, starts
from prismify.training.average import Average
from prismify.training.data import open_data
from prismify.training.engine import Part, Run, Watch, end_run, freeze_unused, introduce, open_run
from prismify.training.models import NO_TRUST, fuse_if, open_model
from prismify.training.pictures import grid, to_pixels
from prismify.training.rates import adam
from prismify.training.schema import DiffusionRecipe
from prismify.training.stepping import take_step

from .diffusion import errors


@dataclass
class Players:
    """What a step moves, and what it goes by.

    Args:
        shares: of the blurred picture, by size and time.
    """

    denoiser: Any
    optimizer: Any
    average: Average
    noising: Noising
    sizes: Sizes
    shares: Tensor


def train(recipe: DiffusionRecipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Path:
    """Carry out the recipe; returns the run's folder."""
    assert recipe.scales is not None
    with open_run(recipe, watch, restart=restart, trust=trust) as run:
        one, _ = open_data(recipe.data, run.seed)
        sizes = sizes_of_picture(one, recipe.scales).to(run.device)
        pyramid, count = sizes.pyramid, len(sizes.sharp)
        stream = ScaleStream(one.images, one.data, run.seed, count=count, batch_size=recipe.train.batch_size)
        model = open_model(recipe.model, run.trust).to(run.device)
        denoiser, noising = Denoiser(model), Noising(recipe.noise)
        trained = Trained(
            noise=recipe.noise, shape=tuple(sizes.sharp[-1].shape), range=recipe.data.range, scales=pyramid
        )
        for sharp in reversed(sizes.sharp):
            inputs = see_that_it_denoises(denoiser, noising, sharp[None], trained)
        freeze_unused(run, denoiser, inputs)
        average = Average(model, recipe.train.ema)
        fuse_if(model, recipe.train.fuse)
        optimizer = adam(model, recipe.train)

        run.begin(stream, {"model": model, "average": average.model, "optimizer": optimizer}, [optimizer])
        introduce(run, model, one.images, {"scales": count}, record_files(trained))
        begins = starts(noising, pyramid.distances)
        shown = ", ".join(f"{w}x{h} from {t}" for (w, h), t in zip(pyramid.sizes, begins, strict=True))
        run.say(f"{count} scales, and the times that sampling them starts at: {shown}")
        shares = gammas(noising, pyramid.distances).to(run.device)
        players = Players(*run.processes.prepare(denoiser, optimizer), average, noising, sizes, shares)

        for step, batch in run.parts_of_steps(stream):
            take_step(
                run,
                batch,
                players.denoiser,
                players.optimizer,
                players.average,
                partial(denoising_terms, run, recipe, players, step),
            )
            if run.measures_now and run.leads and recipe.log.images:
                run.show(pictures(recipe, players, trained, run.device))
            run.save_if_due()
        end_run(run, average.model, record_files(trained))
    return run.folder


def denoising_terms(run: Run, recipe: DiffusionRecipe, players: Players, step: int, part: Part) -> dict[str, Tensor]:
    """The error on one part of a batch: the picture at one size, each time blurred as far as noise will hide it."""
    noising, numbers = players.noising, part.images
    scale = int(numbers[0])
    noise = run.noise(step, part, tuple(players.sizes.sharp[scale].shape))
    times = noising.times(run.chances(step, part, 1)[:, 0])
    clean = players.sizes.blurred(scale, players.shares[scale, times])
    predicted = players.denoiser(noising.noised(clean, noise, times), times, scale=numbers)
    error = errors(predicted, noising.target(clean, noise, times), recipe)
    total = error
    if recipe.loss.weighting == "min_snr":
        total = noising.weights(times, recipe.loss.gamma) * error
    return {"error": error.mean(), "total": total.mean()}


def pictures(recipe: DiffusionRecipe, players: Players, trained: Trained, device: torch.device) -> Any:
    """A grid of samples, of the same seeds each time."""
    made = sample_scales(
        Denoiser(players.average.model),
        players.noising,
        players.sizes.pyramid,
        trained.shape[0],
        [picture_seed(recipe.sampling.seed, index) for index in range(recipe.log.images)],
        limits=trained.range,
        device=device,
    )
    return grid(to_pixels(made, trained.range))
