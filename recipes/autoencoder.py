"""Retrain an autoencoder: reconstruction + perceptual + KL + adversarial loss (Sec. 4.1, Eqs. 6-9).

Reads from top to bottom: what is trained, what it is trained on, one step, what is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prismify.checkpoint import Trust
from prismify.errors import RecipeError
from prismify.graph.latents import decode, encode, latents_text
from prismify.training import losses
from prismify.training.average import Average
from prismify.training.data import open_data
from prismify.training.engine import Part, Run, Watch, end_run, freeze_unused, introduce, open_run, see_that_it_fits
from prismify.training.losses import LPIPS, Judged, load_lpips, mean_logit, set_trainable, smallest_side
from prismify.training.losses.discriminator import make_judge
from prismify.training.measure import last_layer_of, measure_reconstruction, unit_range
from prismify.training.models import NO_TRUST, fuse_if, is_autoencoder, open_model
from prismify.training.rates import adam
from prismify.training.schema import AutoencoderRecipe


class Autoencoding(nn.Module):
    """Images and noise to the reconstruction, the latents and the losses that the model counts itself, in one pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor | None) -> dict[str, Tensor]:
        encoded = encode(self.model, images)
        sampled = encoded.mean
        if encoded.log_variance is not None and noise is not None:
            sampled = encoded.mean + (0.5 * encoded.log_variance).exp() * noise
        output, loss = decode(self.model, sampled)
        own = [term for term in (encoded.loss, loss) if term is not None]
        made = {"output": output, "mean": encoded.mean, "log_variance": encoded.log_variance, "kl": encoded.kl}
        made["own"] = torch.stack(own).sum() if own else None
        return {name: value for name, value in made.items() if value is not None}


@dataclass
class Players:
    """What a step moves: the autoencoder, its judge, and what only measures."""

    autoencoding: Any
    optimizer: Any
    average: Average
    judge: Any
    judge_optimizer: Any
    lpips: LPIPS | None
    last_layer: Tensor


def train(recipe: AutoencoderRecipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Path:
    """Carry out the recipe; returns the run's folder."""
    with open_run(recipe, watch, restart=restart, trust=trust) as run:
        images, held_out = open_data(recipe.data, recipe.train.seed)
        model = open_model(recipe.model, run.trust)
        if not is_autoencoder(model):
            raise RecipeError(f"{type(model).__name__} has no encode and decode: use recipe: distillation")
        loss = recipe.loss
        lpips, said = load_lpips(loss.lpips) if loss.perceptual else (None, "none")

        # The model, and the shape of its latents.
        model = model.to(run.device)
        autoencoding = Autoencoding(model)
        probe = images.first().to(run.device)
        see_that_it_fits(model, probe, whole=True)
        encoded = encode(model, probe)
        latent_shape = tuple(encoded.mean.shape[1:])
        freeze_unused(run, autoencoding, (probe, torch.zeros(1, *latent_shape, device=run.device)))
        average = Average(model, recipe.train.ema)
        fuse_if(model, recipe.train.fuse)
        optimizer = adam(model, recipe.train)
        parts: dict[str, Any] = {"model": model, "average": average.model, "optimizer": optimizer}

        # Its judge.
        judge, judge_optimizer = None, None
        if loss.adversarial:
            least = smallest_side(loss.discriminator)
            if min(probe.shape[2:]) < least:
                raise RecipeError(
                    f"images of {probe.shape[3]}x{probe.shape[2]} leave the discriminator no patch: it needs {least} "
                    "pixels a side (lower loss.discriminator.layers)"
                )
            judge = make_judge(recipe.data.channels, loss.discriminator, run.seed).to(run.device)
            if run.shares.processes > 1 and run.device.type == "cuda":
                convert: Callable[[Judged], Judged] = nn.SyncBatchNorm.convert_sync_batchnorm
                judge = convert(judge)  # where it has batch norms
            plain = replace(recipe.train, rates=replace(recipe.train.rates, operators={}))  # it holds no operators
            judge_optimizer = adam(judge, plain, loss.discriminator.learning_rate)
            parts |= {"judge": judge, "judge_optimizer": judge_optimizer}

        idle = dict.fromkeys(("judge", "judge_optimizer"), loss.adversarial_start) if loss.adversarial else {}
        run.begin(images, parts, [o for o in (optimizer, judge_optimizer) if o is not None], idle)
        introduce(run, model, images.images, {"perceptual": said})
        run.say(f"encode is read as {latents_text(encoded)}")
        players = Players(
            *run.processes.prepare(autoencoding, optimizer),
            average,
            *run.processes.prepare(judge, judge_optimizer),
            lpips.to(run.device) if lpips is not None else None,
            last_layer_of(model),
        )

        for step, batch in run.parts_of_steps(images):
            take_step(run, recipe, players, step, batch, latent_shape)
            if held_out is not None and run.measures_now:
                values, pixels = measure_reconstruction(run, average.model, held_out, players.lpips)
                run.measured(values, "psnr", higher=True)
                if run.leads and pixels is not None:
                    run.show(pixels)
            run.save_if_due()
        end_run(run, average.model)
    return run.folder


def take_step(
    run: Run, recipe: AutoencoderRecipe, players: Players, step: int, batch: Any, latent_shape: tuple[int, ...]
) -> None:
    """One step of the autoencoder, and of the discriminator once it plays."""
    playing = players.judge is not None and step >= recipe.loss.adversarial_start
    players.optimizer.zero_grad()
    if playing:
        players.judge_optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    for part in batch:
        noise = run.noise(step, part, latent_shape)
        modules = (players.autoencoding, players.judge) if playing else (players.autoencoding,)
        with run.processes.share_gradients(part, *modules):
            terms, output = autoencoder_terms(run, recipe, players, part, noise, playing)
            run.processes.backward(terms["total"])
            if playing:
                real, fake = players.judge(part.images, output.detach())
                terms["discriminator"] = losses.hinge_discriminator_loss(real, fake)
                terms["logits_real"], terms["logits_fake"] = mean_logit(real), mean_logit(fake)
                run.processes.backward(terms["discriminator"])
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / run.shares.parts
    values = run.checked(sums)
    norm = run.processes.clip(players.autoencoding, recipe.train.clip)
    players.optimizer.step()
    players.average.update(run.processes.bare(players.autoencoding).model, step + 1)
    norms = {"gradient_norm": norm}
    if playing:
        norms["discriminator_gradient_norm"] = run.processes.clip(players.judge, recipe.train.clip)
        players.judge_optimizer.step()
    rate = players.optimizer.param_groups[0]["lr"]
    run.finished(lambda: {**values, **{k: float(v) for k, v in norms.items()}, "learning_rate": rate})


def autoencoder_terms(
    run: Run, recipe: AutoencoderRecipe, players: Players, part: Part, noise: Tensor, playing: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Every term of the loss on one part of a batch, their weighted sum as "total", and the reconstruction."""
    loss, images = recipe.loss, part.images
    made = players.autoencoding(images, noise)
    output = made["output"]
    terms = {"reconstruction": losses.reconstruction_loss(output, images, loss.reconstruction)}
    total = terms["reconstruction"]
    if players.lpips is not None:
        scale = recipe.data.range
        terms["perceptual"] = players.lpips(unit_range(output, scale), unit_range(images, scale)).mean()
        total = total + loss.perceptual * terms["perceptual"]
    if playing:
        bare = run.processes.bare(players.judge)
        set_trainable(bare, False)
        terms["adversarial"] = losses.hinge_generator_loss(bare.discriminator(output))
        set_trainable(bare, True)
        weight = torch.ones((), device=output.device)
        if loss.adaptive:
            weight = losses.adaptive_weight(total, terms["adversarial"], players.last_layer, run.processes.average)
        terms["adaptive_weight"] = weight
        total = total + loss.adversarial * weight * terms["adversarial"]
    if "log_variance" in made:
        made["kl"] = losses.kl_loss(made["mean"], made["log_variance"])
    for name, factor in (("kl", loss.kl), ("own", loss.own)):
        if name in made and factor:
            terms[name] = made[name]
            total = total + factor * terms[name]
    terms["total"] = total
    return terms, output
