"""Train a converted model to do what its original does: output, latents and feature maps, on any images.

Reads from top to bottom: who learns from whom, one step, what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prismify.checkpoint import Trust
from prismify.errors import RecipeError
from prismify.training import losses
from prismify.training.average import Average
from prismify.training.blockwise import Lessons, alike, blocks_of, start_from, variances_of
from prismify.training.data import Stream, first_batches, open_data
from prismify.training.engine import Part, Run, Watch, end_run, freeze_unused, introduce, open_run, see_that_it_fits
from prismify.training.losses import (
    LPIPS,
    Answering,
    Answers,
    Remembering,
    answer,
    asked_of_student,
    asked_of_teacher,
    check_pair,
    distances,
    everything_of,
    load_lpips,
    matched_layers,
    replaced_layers,
)
from prismify.training.measure import measure_reconstruction, unit_range
from prismify.training.models import NO_TRUST, fuse_if, is_autoencoder, open_model, teacher_of
from prismify.training.rates import adam
from prismify.training.schema import DistillationRecipe
from prismify.training.stepping import take_step, take_step_apart


@dataclass
class Pair:
    """A step's student, its teacher, and what only measures."""

    student: Any
    optimizer: Any
    average: Average
    answers: Remembering
    lpips: LPIPS | None


def train(recipe: DistillationRecipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Path:
    """Carry out the recipe; returns the run's folder."""
    with open_run(recipe, watch, restart=restart, trust=trust) as run:
        images, held_out = open_data(recipe.data, recipe.train.seed)
        source = recipe.teacher or teacher_of(Path(recipe.model.source))
        where = "the recipe" if recipe.teacher else f"the manifest of {recipe.model.source}"
        teacher = open_model(source, run.trust, where).to(run.device).eval().requires_grad_(False)
        model = open_model(recipe.model, run.trust).to(run.device)
        loss = recipe.loss
        check_pair(model, teacher, loss)
        lpips, said = load_lpips(loss.lpips) if loss.perceptual else (None, "none")

        layers = matched_layers(model, teacher, loss)
        student = Answering(model, layers, asked_of_student(loss))
        answers = Remembering(Answering(teacher, layers, asked_of_teacher(loss)), recipe.remember * 2**30)
        probe = images.first().to(run.device)
        see_that_it_fits(model, probe, whole=is_autoencoder(model))
        taught = answers(probe)
        with torch.no_grad():
            # Shapes that differ are an error before the first step.
            distances(student(probe, taught.get("latent")), taught)
        freeze_unused(run, student, (probe, taught.get("latent")))
        average = Average(model, recipe.train.ema)
        fuse_if(model, recipe.train.fuse)
        optimizer = adam(model, recipe.train)

        run.begin(images, {"model": model, "average": average.model, "optimizer": optimizer}, [optimizer])
        introduce(run, model, images.images, {"perceptual": said, "teacher": source.source})
        if recipe.blocks.fitted and run.step == 0:
            fit_to_teacher(run, recipe, model, teacher, images)
            average.restart(model)
        judge = lpips and lpips.to(run.device)
        pair = Pair(*run.processes.prepare(student, optimizer), average, answers, judge)

        lessons = lessons_of(run, recipe, model, teacher, images)
        for step, batch in run.parts_of_steps(images):
            moved = (run, batch, pair.student, pair.optimizer, pair.average)
            if lessons is not None and run.progress < recipe.blocks.share:
                take_step_apart(*moved, partial(learn_blocks, run, recipe, lessons, step))
            else:
                take_step(*moved, partial(distillation_terms, recipe, pair))
            if held_out is not None and run.measures_now:
                measure(run, average.model, teacher, held_out, pair.lpips)
            run.save_if_due()
        end_run(run, average.model)
    return run.folder


def fit_to_teacher(run: Run, recipe: DistillationRecipe, model: nn.Module, teacher: nn.Module, images: Stream) -> None:
    """Start every replaced layer from the weights that come nearest to the teacher's, on as many images as wanted."""
    run_teacher = partial(run_on_first, run, everything_of(teacher), images, recipe.blocks.fitted)
    fitted = start_from(teacher, model, run_teacher, recipe.blocks.positions)
    run.say(f"{len(fitted)} of {len(replaced_layers(model))} replaced layers start nearest to the teacher's")


def lessons_of(
    run: Run, recipe: DistillationRecipe, model: nn.Module, teacher: nn.Module, images: Stream
) -> Lessons | None:
    """What the blocks learn by themselves, where the recipe lets them."""
    if not recipe.blocks.share:
        return None
    run_teacher = partial(run_on_first, run, everything_of(teacher), images, recipe.train.batch_size)
    named = blocks_of(teacher, replaced_layers(model))
    found = [n for n in named if any(p.requires_grad for p in model.get_submodule(n).parameters())]
    own = partial(run_on_first, run, everything_of(model), images, recipe.train.batch_size)
    blocks = alike(found, teacher, model, run_teacher, own)
    if found and not blocks:
        raise RecipeError(
            "blocks: no block returns what the teacher's does, for all have fewer channels: share must be 0"
        )
    if len(blocks) < len(found):
        run.say(f"{len(found) - len(blocks)} blocks return fewer channels than the teacher's and learn with the whole")
    return Lessons(model, teacher, variances_of(teacher, blocks, run_teacher), recipe.blocks.at_once)


def run_on_first(run: Run, model: Answering, images: Stream, count: int) -> None:
    """Run a model on the first images of the run."""
    for some in first_batches(images, count, run.shares.size):
        model(some.to(run.device))


def learn_blocks(run: Run, recipe: DistillationRecipe, lessons: Lessons, step: int, part: Part) -> dict[str, Tensor]:
    """Add the gradients of every block's own error on one part of a batch; returns their mean."""
    taught: Answers = {}

    def run_teacher() -> None:
        taught.update(everything_of(lessons.teacher)(part.images))

    def run_student() -> None:
        everything_of(lessons.student)(part.images, taught.get("latent"))

    with run.processes.autocast():
        if run.progress < recipe.blocks.share * (1 - recipe.blocks.own_inputs):
            error = lessons.from_teacher(step, run_teacher, run.processes.backward)
        else:
            error = lessons.on_its_own(step, run_teacher, run_student, run.processes.backward)
    return {"blocks": error}


def distillation_terms(recipe: DistillationRecipe, pair: Pair, part: Part) -> dict[str, Tensor]:
    """Every term of the loss on one part of a batch, and their weighted sum as "total"."""
    loss, images, scale = recipe.loss, part.images, recipe.data.range
    taught = pair.answers(images)
    said: Answers = pair.student(images, taught.get("latent"))
    terms = distances(said, taught)
    if "image" in said:
        terms["image"] = losses.relative_error(said["image"], images)
    if pair.lpips is not None:
        if said["output"].dim() != 4 or said["output"].shape[1] not in (1, 3):
            raise RecipeError(f"loss.perceptual compares images; the output is {tuple(said['output'].shape)}")
        terms["perceptual"] = pair.lpips(unit_range(said["output"], scale), unit_range(taught["output"], scale)).mean()
    weights = {name: getattr(loss, name) for name in terms}
    terms["total"] = losses.weighted_sum([(weights[name], term) for name, term in terms.items()])
    return terms


def measure(run: Run, model: nn.Module, teacher: nn.Module, held_out: Stream, lpips: LPIPS | None) -> None:
    """An autoencoder's reconstructions against the images; any model's output against the teacher's."""
    error = relative_to_teacher(run, model, teacher, held_out)
    if not is_autoencoder(model):
        run.measured({"error_to_teacher": error}, "error_to_teacher", higher=False)
        return
    values, pixels = measure_reconstruction(run, model, held_out, lpips, teacher)
    run.measured({**values, "error_to_teacher": error}, "psnr", higher=True)
    if run.leads and pixels is not None:
        run.show(pixels)


@torch.no_grad()
def relative_to_teacher(run: Run, model: nn.Module, teacher: nn.Module, held_out: Stream) -> float:
    """Squared error over held-out images, over the teacher's variance there."""
    sums = torch.zeros(4, dtype=torch.float64, device=run.device)  # error, values, squares, count
    for images in held_out.in_order(run.shares.size, run.shares.rank, run.shares.processes):
        images = images.to(run.device)
        ours, its = answer(model, images).double(), answer(teacher, images).double()
        sums += torch.stack([(ours - its).square().sum(), its.sum(), its.square().sum(), its.new_tensor(its.numel())])
    error, total, squares, count = run.processes.average(sums).tolist()
    return float(error / max(1e-12, squares - total**2 / count))
