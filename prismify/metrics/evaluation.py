"""Models measured side by side on the same images (Table 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError, RecipeError
from ..facts import parameter_count
from ..training.data import Stream
from ..training.losses import LPIPS
from ..training.measure import psnr, unit_range
from ..training.models import reconstruct
from ..training.pictures import sheet, to_pixels
from .distances import Spread
from .judges import NO_LPIPS, Judges, compare, judged, not_measured, pixels_of, score

_SSIM_WINDOW = 11


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Args:
        rows: model -> metric -> measurement; "originals" has what can be said of the images themselves.
        parameters: model -> numbers in its parameters.
        missing: metric -> why it is not there.
        pictures: the first images, with each model's reconstructions below: uint8 (H, W, 3).
        images: how many were measured on.
    """

    rows: dict[str, dict[str, Spread]]
    parameters: dict[str, int]
    missing: dict[str, str]
    pictures: Any
    images: int


def evaluate(
    models: Mapping[str, nn.Module],
    images: Stream,
    judges: Judges,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    shown: int = 8,
    watch: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Reconstruct `images` with every model, and measure.

    Args:
        watch: is told what is being done.

    Raises:
        DataError: an image cannot be read, or a model returns other sizes than it was given.
    """
    rows: dict[str, dict[str, Spread]] = {}
    pages: list[Any] = []
    value_range = images.data.range
    originals: tuple[Tensor, Tensor] | None = None
    count = 0
    if judges.network is not None:
        watch("features of the originals")
        batches = (pixels_of(batch, value_range) for batch in _batches(images, batch_size, device))
        originals = judged(judges.network, batches)
        rows["originals"] = score(judges, originals[1])
    for name, model in models.items():
        watch(f"reconstructing with {name}")
        model = model.to(device).eval()
        each: dict[str, list[Tensor]] = {"PSNR": [], "SSIM": [], "LPIPS": []}
        made: list[tuple[Tensor, Tensor]] = []
        page: list[Any] = []
        for batch in _batches(images, batch_size, device):
            output = _same_size(name, _reconstructed(name, model, batch), batch)
            for key, values in per_image(output, batch, value_range, judges.lpips).items():
                each[key].append(values.cpu())
            if judges.network is not None:
                made.append(judged(judges.network, [pixels_of(output, value_range)]))
            if not page:
                page = [to_pixels(batch[:shown], value_range), to_pixels(output[:shown], value_range)]
        count = sum(len(v) for v in each["PSNR"])
        pages += [row for row in (page[1:] if pages else page) if not pages or row.shape == pages[0].shape]
        rows[name] = {k: _over_images(torch.cat(v), count) for k, v in each.items() if v}
        if originals is not None:
            features, logits = (torch.cat(part) for part in zip(*made, strict=True))
            rows[name] |= score(judges, logits) | compare(judges, originals[0], features)
        model.to("cpu")
    parameters = {name: parameter_count(model) for name, model in models.items()}
    missing = ({"LPIPS": NO_LPIPS} if judges.lpips is None else {}) | not_measured(judges, count)
    if not any("SSIM" in row for row in rows.values()):
        missing = {"SSIM": f"images are smaller than its window of {_SSIM_WINDOW} pixels", **missing}
    return Evaluation(rows, parameters, missing, sheet(pages), count)


def per_image(
    output: Tensor, target: Tensor, value_range: tuple[float, float], lpips: LPIPS | None
) -> dict[str, Tensor]:
    """PSNR in dB, SSIM (of 11 pixels a side or more) and, where there is one, LPIPS of each image; outputs are
    clipped to the range."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    black, white = value_range
    output = output.float().clamp(black, white)
    values = {"PSNR": psnr(output, target, value_range)}
    if min(target.shape[2:]) >= _SSIM_WINDOW:
        similarity: Tensor = structural_similarity_index_measure(
            output - black, target - black, data_range=white - black, reduction="none"
        )
        values["SSIM"] = similarity.reshape(-1)
    if lpips is not None:
        values["LPIPS"] = lpips.to(output.device)(unit_range(output, value_range), unit_range(target, value_range))
    return values


def _batches(images: Stream, size: int, device: torch.device | str) -> Any:
    return (batch.to(device) for batch in images.in_order(size))


def _reconstructed(name: str, model: nn.Module, images: Tensor) -> Tensor:
    try:
        return reconstruct(model, images)
    except Exception as error:  # whatever somebody's model raises
        if isinstance(error, (RecipeError, torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
            raise
        text = " ".join(str(error).split())[:160]
        raise DataError(
            f"{name} takes no images of {tuple(images.shape[1:])} ({text}): choose another --size"
        ) from error


def _same_size(name: str, output: Tensor, images: Tensor) -> Tensor:
    if output.shape != images.shape:
        raise DataError(
            f"{name} returns {tuple(output.shape[1:])} for images of {tuple(images.shape[1:])}: choose another --size"
        )
    return output


def _over_images(values: Tensor, count: int) -> Spread:
    deviation = float(values.double().std()) if len(values) > 1 else None
    return Spread(
        float(values.double().mean()),
        deviation,
        "images" if len(values) == count else f"{len(values)} of {count} images",
    )
