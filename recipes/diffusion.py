"""Train a denoiser: a model that tells noise from pictures, or from the latents of an autoencoder (Secs. 4.2, 4.3).

Reads from top to bottom: what is denoised, who teaches, one step, what is measured and shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prismify.checkpoint import Trust
from prismify.diffusion import Denoiser, Noising, sample
from prismify.diffusion.fitting import check_guidance, classes_of, open_texts, see_that_it_denoises
from prismify.diffusion.latents import decoded
from prismify.diffusion.material import Material, open_material, teachers_record
from prismify.diffusion.record import Trained, record_files
from prismify.diffusion.sampling import check_sampler, default_sampler, picture_seed
from prismify.diffusion.teaching import Learner, make_adapters, taught_layers, teaching_terms
from prismify.generators import mixed
from prismify.training import losses
from prismify.training.average import Average
from prismify.training.blockwise import start_from
from prismify.training.data import Stream, first_told
from prismify.training.engine import Part, Run, Watch, end_run, freeze_unused, introduce, open_run
from prismify.training.losses import replaced_layers
from prismify.training.models import NO_TRUST, fuse_if, open_model, teacher_of
from prismify.training.pictures import grid, to_pixels
from prismify.training.rates import adam
from prismify.training.schema import DiffusionRecipe, Teaching
from prismify.training.stepping import take_step


@dataclass
class Players:
    """What a step moves, and what it goes by."""

    learner: Any
    optimizer: Any
    average: Average
    teacher: Learner | None
    noising: Noising
    material: Material
    trained: Trained
    texts: Any


def train(recipe: DiffusionRecipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Path:
    """Carry out the recipe; returns the run's folder."""
    with open_run(recipe, watch, restart=restart, trust=trust) as run:
        model = open_model(recipe.model, run.trust).to(run.device)
        denoiser, noising = Denoiser(model), Noising(recipe.noise)
        check_sampler(noising, default_sampler(noising, recipe.sampling.sampler), recipe.sampling.steps)
        teacher, said = open_teacher(run, recipe)
        material = open_material(run, recipe, teacher)
        images = material.stream.images
        probe = material.stream.first().to(run.device)
        classes, null = classes_of(denoiser, images, recipe.condition)
        texts = open_texts(recipe.condition, run.device)
        check_guidance(recipe, null)
        trained = Trained(
            noise=recipe.noise,
            shape=tuple(probe.shape[1:]),
            range=recipe.data.range,
            classes=classes,
            null=null,
            texts=recipe.condition.encoder,
            latents=material.space,
        )
        context = None if texts is None else texts([""])
        inputs = see_that_it_denoises(denoiser, noising, probe, trained, context)
        learner, taught = Learner(denoiser), None
        if teacher is not None:
            see_that_it_denoises(teacher, noising, probe, trained, context)
            learner, taught = pair(recipe, denoiser, teacher, inputs)
        freeze_unused(run, learner, inputs)
        average = Average(model, recipe.train.ema)
        fuse_if(model, recipe.train.fuse)
        optimizer = adam(learner, recipe.train)

        parts: dict[str, Any] = {"model": model, "average": average.model, "optimizer": optimizer}
        parts |= {"adapters": learner.adapters} if len(learner.adapters) else {}
        run.begin(material.stream, parts, [optimizer])
        notes = {"classes": list(classes), "teacher": said, "pictures": "Samples of the same seeds as before"}
        introduce(run, model, images, notes, record_files(trained))
        if taught is not None and recipe.distil and recipe.distil.fitted and run.step == 0:
            fit_to_teacher(run, recipe, denoiser, taught, material, noising, texts)
            average.restart(model)
        prepared = run.processes.prepare(learner, optimizer)
        players = Players(*prepared, average, taught, noising, material, trained, texts)

        for step, batch in run.parts_of_steps(material.stream):
            take_step(
                run,
                batch,
                players.learner,
                players.optimizer,
                players.average,
                partial(denoising_terms, run, recipe, players, step),
            )
            if run.measures_now:
                measure(run, recipe, players)
            run.save_if_due()
        end_run(run, average.model, record_files(trained))
    return run.folder


def open_teacher(run: Run, recipe: DiffusionRecipe) -> tuple[Denoiser | None, str]:
    """The teacher, where there is one, and what it is."""
    if recipe.teacher is None and recipe.distil is None:
        return None, "none"
    source = recipe.teacher or teacher_of(Path(recipe.model.source))
    where = "the recipe" if recipe.teacher else f"the manifest of {recipe.model.source}"
    teachers_record(source.source, recipe)  # the same noise, or an error
    model = open_model(source, run.trust, where).to(run.device).eval().requires_grad_(False)
    return Denoiser(model), source.source


def pair(
    recipe: DiffusionRecipe, denoiser: Denoiser, teacher: Denoiser, inputs: tuple[Any, ...]
) -> tuple[Learner, Learner]:
    """The student with its adapters, and the teacher whose features they are made for."""
    layers = taught_layers(denoiser.model, teacher.model, recipe.distil or Teaching())
    layers, adapters = make_adapters(denoiser, teacher, layers, inputs)
    return Learner(denoiser, layers, adapters), Learner(teacher, layers)


def fit_to_teacher(
    run: Run,
    recipe: DiffusionRecipe,
    student: Denoiser,
    teacher: Learner,
    material: Material,
    noising: Noising,
    texts: Any,
) -> None:
    """Start every replaced layer from the weights that come nearest to the teacher's, on as many images as wanted."""
    distil = recipe.distil or Teaching()

    def run_teacher() -> None:
        for number, batch in enumerate(first_told(material.stream, distil.fitted, run.shares.size)):
            noised, times = noising.drawn(batch.images.to(run.device), mixed(run.seed, 7, number))
            labels = batch.labels if recipe.condition.kind == "class" else None
            context = None if texts is None else texts(batch.captions or [""] * len(noised))
            teacher(noised, times, None if labels is None else labels.to(run.device), context)

    fitted = start_from(teacher.model, student.model, run_teacher, distil.positions)
    run.say(f"{len(fitted)} of {len(replaced_layers(student.model))} replaced layers start nearest to the teacher's")


def denoising_terms(run: Run, recipe: DiffusionRecipe, players: Players, step: int, part: Part) -> dict[str, Tensor]:
    """Every term of the loss on one part of a batch, and what is minimised of them as "total"."""
    noising, trained = players.noising, players.trained
    noise = run.noise(step, part, trained.shape)
    chances = run.chances(step, part, 2)
    dropped = chances[:, 1] < recipe.condition.dropout
    labels = part.labels if recipe.condition.kind == "class" else None
    if labels is not None and trained.null is not None:
        labels = labels.masked_fill(dropped, trained.null)
    context = None
    if players.texts is not None:
        said = part.captions or [""] * len(part.images)
        context = players.texts(["" if drop else text for text, drop in zip(said, dropped.tolist(), strict=True)])
    times = noising.times(chances[:, 0])
    noised = noising.noised(part.images, noise, times)
    answers = players.learner(noised, times, labels, context)
    error = errors(answers["output"], noising.target(part.images, noise, times), recipe)
    terms = {"error": error.mean()}
    task = error.mean()
    if recipe.loss.weighting == "min_snr":
        task = (noising.weights(times, recipe.loss.gamma) * error).mean()
    if players.teacher is None:
        return {**terms, "total": task}
    teaching = recipe.distil or Teaching()
    with torch.no_grad():
        taught = players.teacher(noised, times, labels, context)
    terms |= teaching_terms(answers, taught, teaching)
    weighted = [(getattr(teaching, name), terms[name]) for name in ("output", "features") if name in terms]
    if teaching.task:
        weighted.append((teaching.task, task))
    elif not teaching.output:  # layers behind the last features have a gradient all the same, which processes wait for
        weighted.append((0.0, answers["output"].float().square().mean()))
    return {**terms, "total": losses.weighted_sum(weighted)}


def errors(predicted: Tensor, target: Tensor, recipe: DiffusionRecipe) -> Tensor:
    """The mean error of each picture's prediction: shape (B,)."""
    difference = predicted.float() - target
    each = difference.square() if recipe.loss.distance == "l2" else difference.abs()
    return each.flatten(1).mean(1)


def measure(run: Run, recipe: DiffusionRecipe, players: Players) -> None:
    """The error on held-out images, at times and with noise that are the same each time; and pictures of it."""
    denoiser = Denoiser(players.average.model)
    if players.material.held_out is not None:
        values = held_out_errors(run, recipe, players, denoiser, players.material.held_out)
        run.measured(values, "error_to_teacher" if players.teacher else "error", higher=False)
    if run.leads and recipe.log.images:
        run.show(pictures(recipe, players, denoiser, run.device))


@torch.no_grad()
def held_out_errors(
    run: Run, recipe: DiffusionRecipe, players: Players, denoiser: nn.Module, held_out: Stream
) -> dict[str, float]:
    """The mean error, each image at one time, the times spread evenly over all; and the same to the teacher."""
    noising, sums = players.noising, torch.zeros(4, dtype=torch.float64, device=run.device)
    count = len(held_out.images)
    for mine, images in held_out.numbered(run.shares.size, run.shares.rank, run.shares.processes):
        images = images.to(run.device)
        drawn = [torch.Generator().manual_seed(mixed(run.seed, 5, i)) for i in mine]
        noise = torch.stack([torch.randn(players.trained.shape, generator=g) for g in drawn]).to(run.device)
        times = noising.times(torch.tensor([(i + 0.5) / count for i in mine], device=run.device))
        labels, context = None, None
        if recipe.condition.kind == "class" and held_out.images.labels is not None:
            labels = torch.tensor([held_out.images.labels[i] for i in mine], device=run.device)
        if players.texts is not None:
            context = players.texts([held_out.told(i)[1] or "" for i in mine])
        noised = noising.noised(images, noise, times)
        predicted = denoiser(noised, times, labels, context)
        error = errors(predicted, noising.target(images, noise, times), recipe).sum()
        apart, power = _to_teacher(players, predicted, noised, times, labels, context)
        sums += torch.stack([error.double(), apart, power, sums.new_tensor(len(images))])
    total, distance, scale, number = run.processes.average(sums.float()).tolist()
    return {"error": total / number, **({"error_to_teacher": distance / scale} if players.teacher else {})}


def _to_teacher(
    players: Players,
    predicted: Tensor,
    noised: Tensor,
    times: Tensor,
    labels: Tensor | None,
    context: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Summed over a batch: the squared error of a prediction to the teacher's, and the square of that; else zeros."""
    if players.teacher is None:
        nothing = torch.zeros((), dtype=torch.float64, device=noised.device)
        return nothing, nothing
    its = players.teacher.denoiser(noised, times, labels, context).double()
    return (predicted.double() - its).square().sum(), its.square().sum()


def pictures(recipe: DiffusionRecipe, players: Players, denoiser: Denoiser, device: torch.device) -> Any:
    """A grid of samples, of the same seeds each time."""
    count, trained, how = recipe.log.images, players.trained, recipe.sampling
    context = None
    if players.texts is not None:
        first = players.material.held_out or players.material.stream
        context = players.texts([first.told(index % len(first.images))[1] or "" for index in range(count)])
    made = sample(
        denoiser,
        players.noising,
        trained.shape,
        [picture_seed(how.seed, index) for index in range(count)],
        steps=how.steps,
        sampler=default_sampler(players.noising, how.sampler),
        labels=torch.arange(count) % len(trained.classes) if trained.classes else None,
        null=trained.null,
        context=context,
        empty=None if players.texts is None else players.texts([""]),
        guidance=how.guidance,
        limits=trained.range if trained.latents is None else None,
        device=device,
    )
    if trained.latents is not None and players.material.autoencoder is not None:
        made = decoded(players.material.autoencoder, made, trained.latents.mean, trained.latents.deviation)
    return grid(to_pixels(made, trained.range))
