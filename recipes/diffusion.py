"""Train a denoiser: a model that tells noise from pictures, or from the latents of an autoencoder (Secs. 4.2, 4.3).

Reads from top to bottom: what is denoised, one step, what is measured and shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prismify.checkpoint import Trust
from prismify.diffusion import Denoiser, Noising, sample
from prismify.diffusion.fitting import classes_of, see_that_it_denoises
from prismify.diffusion.latents import LatentStream, check_cacheable, decoded, open_latents, weights_hash
from prismify.diffusion.record import LatentSpace, Trained, record_files
from prismify.diffusion.sampling import check_sampler, default_sampler, picture_seed
from prismify.errors import RecipeError
from prismify.generators import mixed
from prismify.training.average import Average
from prismify.training.data import Stream, open_data
from prismify.training.engine import Part, Run, Watch, end_run, freeze_unused, introduce, open_run, see_that_it_fits
from prismify.training.models import NO_TRUST, fuse_if, is_autoencoder, open_model
from prismify.training.pictures import grid, to_pixels
from prismify.training.rates import adam
from prismify.training.schema import DiffusionRecipe


@dataclass
class Players:
    """What a step moves, and what it goes by."""

    denoiser: Any
    optimizer: Any
    average: Average
    noising: Noising
    trained: Trained
    autoencoder: nn.Module | None


def train(recipe: DiffusionRecipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Path:
    """Carry out the recipe; returns the run's folder."""
    with open_run(recipe, watch, restart=restart, trust=trust) as run:
        images, held_out = open_data(recipe.data, recipe.train.seed)
        model = open_model(recipe.model, run.trust).to(run.device)
        denoiser, noising = Denoiser(model), Noising(recipe.noise)
        check_sampler(noising, default_sampler(noising, recipe.sampling.sampler), recipe.sampling.steps)
        classes, null = classes_of(denoiser, images.images, recipe.condition)

        # What is denoised: pixels, or latents.
        autoencoder, space = None, None
        if recipe.autoencoder is not None:
            autoencoder, space, images, held_out = in_latents(run, recipe, images, held_out)
        probe = images.first().to(run.device)
        trained = Trained(
            noise=recipe.noise,
            shape=tuple(probe.shape[1:]),
            range=recipe.data.range,
            classes=classes,
            null=null,
            latents=space,
        )
        inputs = see_that_it_denoises(denoiser, noising, probe, trained)
        freeze_unused(run, denoiser, inputs)
        average = Average(model, recipe.train.ema)
        fuse_if(model, recipe.train.fuse)
        optimizer = adam(model, recipe.train)

        run.begin(images, {"model": model, "average": average.model, "optimizer": optimizer}, [optimizer])
        introduce(run, model, images.images, {"classes": list(classes)}, record_files(trained))
        players = Players(*run.processes.prepare(denoiser, optimizer), average, noising, trained, autoencoder)

        for step, batch in run.parts_of_steps(images):
            take_step(run, recipe, players, step, batch)
            if run.measures_now:
                measure(run, recipe, players, held_out)
            run.save_if_due()
        end_run(run, average.model, record_files(trained))
    return run.folder


def in_latents(
    run: Run, recipe: DiffusionRecipe, images: Stream, held_out: Stream | None
) -> tuple[nn.Module, LatentSpace, LatentStream, LatentStream | None]:
    """The autoencoder, what its latents are, and the latents of the images."""
    assert recipe.autoencoder is not None
    check_cacheable(recipe.data)
    autoencoder = open_model(recipe.autoencoder, run.trust).to(run.device).eval().requires_grad_(False)
    if not is_autoencoder(autoencoder):
        raise RecipeError(f"autoencoder: {type(autoencoder).__name__} has no encode and decode")
    see_that_it_fits(autoencoder, images.first().to(run.device), whole=True)
    hashed = weights_hash(autoencoder)
    latents = open_latents(run, autoencoder, hashed, images, recipe.latents, flips=recipe.data.flip)
    held = None
    if held_out is not None:
        held = open_latents(run, autoencoder, hashed, held_out, recipe.latents, flips=False)
        held = replace(held, mean=latents.mean, deviation=latents.deviation)
    mean, deviation = (tuple(v.flatten().tolist()) for v in (latents.mean, latents.deviation))
    space = LatentSpace(autoencoder=recipe.autoencoder, hash=hashed, mean=mean, deviation=deviation)
    return autoencoder, space, latents, held


def take_step(run: Run, recipe: DiffusionRecipe, players: Players, step: int, batch: Any) -> None:
    """One step of the denoiser."""
    players.optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    for part in batch:
        with run.processes.share_gradients(part, players.denoiser):
            terms = denoising_terms(run, recipe, players, step, part)
            run.processes.backward(terms["total"])
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / run.shares.parts
    values = run.checked(sums)
    norm = run.processes.clip(players.denoiser, recipe.train.clip)
    players.optimizer.step()
    players.average.update(run.processes.bare(players.denoiser).model, step + 1)
    rate = players.optimizer.param_groups[0]["lr"]
    run.finished(lambda: {**values, "gradient_norm": float(norm), "learning_rate": rate})


def denoising_terms(run: Run, recipe: DiffusionRecipe, players: Players, step: int, part: Part) -> dict[str, Tensor]:
    """The error of what the denoiser says of one part of a batch, and what is minimised of it as "total"."""
    noise = run.noise(step, part, players.trained.shape)
    chances = run.chances(step, part, 2)
    labels = part.labels if recipe.condition.kind == "class" else None
    if labels is not None and players.trained.null is not None:
        labels = labels.masked_fill(chances[:, 1] < recipe.condition.dropout, players.trained.null)
    times = players.noising.times(chances[:, 0])
    error = errors(players.denoiser, players.noising, recipe, part.images, noise, times, labels)
    terms = {"error": error.mean(), "total": error.mean()}
    if recipe.loss.weighting == "min_snr":
        terms["total"] = (players.noising.weights(times, recipe.loss.gamma) * error).mean()
    return terms


def errors(
    denoiser: nn.Module,
    noising: Noising,
    recipe: DiffusionRecipe,
    clean: Tensor,
    noise: Tensor,
    times: Tensor,
    labels: Tensor | None,
) -> Tensor:
    """The mean error of each picture: shape (B,)."""
    predicted = denoiser(noising.noised(clean, noise, times), times, labels)
    difference = predicted.float() - noising.target(clean, noise, times)
    each = difference.square() if recipe.loss.distance == "l2" else difference.abs()
    return each.flatten(1).mean(1)


def measure(run: Run, recipe: DiffusionRecipe, players: Players, held_out: Stream | None) -> None:
    """The error on held-out images, at times and with noise that are the same each time; and pictures of it."""
    denoiser = Denoiser(players.average.model)
    if held_out is not None:
        run.measured({"error": held_out_error(run, recipe, players, denoiser, held_out)}, "error", higher=False)
    if run.leads and recipe.log.images:
        run.show(pictures(recipe, players, denoiser, run.device))


@torch.no_grad()
def held_out_error(run: Run, recipe: DiffusionRecipe, players: Players, denoiser: Denoiser, held_out: Stream) -> float:
    """The mean error, each image at one time, the times spread evenly over all of them."""
    total = torch.zeros(2, device=run.device)
    count, rank, processes = len(held_out.images), run.shares.rank, run.shares.processes
    index = rank
    for images in held_out.in_order(run.shares.size, rank, processes):
        mine = range(index, count, processes)[: len(images)]
        index = mine[-1] + processes
        drawn = [torch.Generator().manual_seed(mixed(run.seed, 5, i)) for i in mine]
        noise = torch.stack([torch.randn(players.trained.shape, generator=g) for g in drawn]).to(run.device)
        times = players.noising.times(torch.tensor([(i + 0.5) / count for i in mine], device=run.device))
        labels = None
        if recipe.condition.kind == "class" and held_out.images.labels is not None:
            labels = torch.tensor([held_out.images.labels[i] for i in mine], device=run.device)
        error = errors(denoiser, players.noising, recipe, images.to(run.device), noise, times, labels)
        total += torch.stack([error.sum(), torch.tensor(float(len(images)), device=run.device)])
    summed, number = run.processes.average(total).tolist()
    return float(summed / number)


def pictures(recipe: DiffusionRecipe, players: Players, denoiser: Denoiser, device: torch.device) -> Any:
    """A grid of samples, of the same seeds each time."""
    count, trained, how = recipe.log.images, players.trained, recipe.sampling
    labels = torch.arange(count) % len(trained.classes) if trained.classes else None
    made = sample(
        denoiser,
        players.noising,
        trained.shape,
        [picture_seed(how.seed, index) for index in range(count)],
        steps=how.steps,
        sampler=default_sampler(players.noising, how.sampler),
        labels=labels,
        null=trained.null,
        guidance=how.guidance,
        clip=trained.latents is None,
        device=device,
    )
    if trained.latents is not None and players.autoencoder is not None:
        made = decoded(players.autoencoder, made, trained.latents.mean, trained.latents.deviation)
    return grid(to_pixels(made, trained.range))
