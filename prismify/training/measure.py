"""Measurements during a run: PSNR and LPIPS of held-out images, and their pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RecipeError
from .data import Stream
from .engine import Run
from .losses import LPIPS
from .models import reconstruct
from .pictures import sheet, to_pixels


def unit_range(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Images at the model's range, put to [-1, 1]."""
    black, white = value_range
    return images if (black, white) == (-1.0, 1.0) else (images - black) * (2 / (white - black)) - 1


def psnr(output: Tensor, target: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, after clipping to the range: shape (B,)."""
    black, white = value_range
    error = (output.float().clamp(black, white) - target.float()).square().flatten(1).mean(1)
    return 10 * torch.log10((white - black) ** 2 / error.clamp_min(1e-12))


@torch.no_grad()
def measure_reconstruction(
    run: Run, model: nn.Module, held_out: Stream, lpips: LPIPS | None, teacher: nn.Module | None = None
) -> tuple[dict[str, float], Any]:
    """PSNR (and LPIPS) of held-out images, shared among the processes, and a sheet of the first, where any are wanted.

    Args:
        teacher: is measured beside the model, and its pictures stand below the model's.
    """
    value_range = held_out.data.range
    sums = torch.zeros(4, dtype=torch.float64, device=run.device)
    shown: list[list[Any]] = []
    wanted = run.recipe.log.images
    for images in held_out.in_order(run.shares.size, run.shares.rank, run.shares.processes):
        images = images.to(run.device)
        output = reconstruct(model, images)
        sums[0] += len(images)
        sums[1] += psnr(output, images, value_range).sum()
        if lpips is not None:
            sums[2] += lpips(unit_range(output, value_range), unit_range(images, value_range)).sum()
        rows = [images, output]
        if teacher is not None:
            rows.append(reconstruct(teacher, images))
            sums[3] += psnr(rows[-1], images, value_range).sum()
        if sum(len(row[0]) for row in shown) < wanted:
            shown.append([to_pixels(row, value_range) for row in rows])
    count, decibels, distance, its = run.processes.average(sums.float()).tolist()
    values = {"psnr": decibels / count}
    if lpips is not None:
        values["lpips"] = distance / count
    if teacher is not None:
        values["teacher_psnr"] = its / count
    return values, _page(shown, wanted) if shown else None


def _page(shown: list[list[Any]], wanted: int) -> Any:
    """Originals above their reconstructions, as many as were asked for of the first batch's size."""
    import numpy as np

    shape = shown[0][0].shape[1:]
    alike = [rows for rows in shown if rows[0].shape[1:] == shape]
    return sheet([np.concatenate(same)[:wanted] for same in zip(*alike, strict=True)])


def last_layer_of(model: nn.Module) -> Tensor:
    """The weight that makes an autoencoder's output: the last convolution or linear layer of its decoder.

    Raises:
        RecipeError: it has none.
    """
    decoder = getattr(model, "decoder", model)
    for owner in (decoder, model):
        weights = [
            m.weight
            for m in owner.modules()
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and m.weight.requires_grad
        ]
        if weights:
            return weights[-1]
    raise RecipeError(f"{type(model).__name__} has no output layer to balance the losses at: set loss.adaptive=false")
