"""Models measured side by side on the same images (Table 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError, RecipeError
from ..facts import parameter_count
from ..training.data import Stream
from ..training.losses import LPIPS
from ..training.measure import psnr, unit_range
from ..training.models import reconstruct
from ..training.pictures import sheet, to_pixels
from .networks import FeatureNetwork

#: Least images for a subset of KID, and for the splits of IS, to say anything.
_LEAST_SUBSET = 10
_SSIM_WINDOW = 11


@dataclass(frozen=True)
class Spread:
    """A measurement: its mean and its standard deviation, over images, splits or subsets; None where it has none."""

    mean: float
    deviation: float | None
    over: str


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


@dataclass(frozen=True)
class Judges:
    """What measures: LPIPS and a feature network, or why there is none.

    Args:
        splits: of the inception score.
        subsets, subset_size: of KID.
    """

    lpips: LPIPS | None = None
    network: FeatureNetwork | None = None
    splits: int = 10
    subsets: int = 100
    subset_size: int = 1000


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
        originals = _features(judges.network, _batches(images, batch_size, device), value_range)
        rows["originals"] = _inception_score(judges, originals[1])
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
                made.append(_judged(judges.network, output, value_range))
            if not page:
                page = [to_pixels(batch[:shown], value_range), to_pixels(output[:shown], value_range)]
        count = sum(len(v) for v in each["PSNR"])
        pages += [row for row in (page[1:] if pages else page) if not pages or row.shape == pages[0].shape]
        rows[name] = {k: _over_images(torch.cat(v), count) for k, v in each.items() if v}
        if originals is not None:
            features, logits = (torch.cat(part) for part in zip(*made, strict=True))
            rows[name] |= _inception_score(judges, logits) | _distances(judges, originals[0], features)
        model.to("cpu")
    parameters = {name: parameter_count(model) for name, model in models.items()}
    missing = _missing(judges, count)
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


def _judged(network: FeatureNetwork, images: Tensor, value_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(to_pixels(images, value_range)).permute(0, 3, 1, 2).to(images.device)
    with torch.no_grad():
        features, logits = network.run(pixels)
    return features.float().cpu(), logits.float().cpu()


def _features(network: FeatureNetwork, batches: Any, value_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
    parts = [_judged(network, batch, value_range) for batch in batches]
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return features, logits


def _over_images(values: Tensor, count: int) -> Spread:
    deviation = float(values.double().std()) if len(values) > 1 else None
    return Spread(
        float(values.double().mean()),
        deviation,
        "images" if len(values) == count else f"{len(values)} of {count} images",
    )


def _inception_score(judges: Judges, logits: Tensor) -> dict[str, Spread]:
    from torch_fidelity.metric_isc import isc_features_to_metric

    assert judges.network is not None
    if len(logits) < judges.splits:
        return {}
    found = isc_features_to_metric(logits, splits=judges.splits)
    mean, deviation = found["inception_score_mean"], found["inception_score_std"]
    return {judges.network.metric("IS"): Spread(mean, deviation, f"{judges.splits} splits")}


def _distances(judges: Judges, originals: Tensor, made: Tensor) -> dict[str, Spread]:
    """KID and the Fréchet distance between two sets of features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    assert judges.network is not None
    found: dict[str, Spread] = {}
    size = min(judges.subset_size, len(made) // 2)  # subsets of all the images would have no spread
    if size >= _LEAST_SUBSET:
        kid = kid_features_to_metric(
            made, originals, kid_subsets=judges.subsets, kid_subset_size=size, rng_seed=2020, verbose=False
        )
        mean, deviation = (float(np.asarray(kid[f"kernel_inception_distance_{k}"])) for k in ("mean", "std"))
        found[judges.network.metric("KID")] = Spread(mean, deviation, f"{judges.subsets} subsets of {size}")
    if len(made) >= 2:
        statistics = [fid_features_to_statistics(f.double()) for f in (made, originals)]
        distance = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        found[judges.network.metric("FID")] = Spread(float(distance), None, f"{len(made)} images")
    return found


def _missing(judges: Judges, count: int) -> dict[str, str]:
    missing = {}
    if judges.lpips is None:
        missing["LPIPS"] = "no weights: give --lpips FILE"
    if judges.network is None:
        missing |= dict.fromkeys(("IS", "KID", "FID"), "no feature network: give --features FILE")
        return missing
    if count < judges.splits:
        missing[judges.network.metric("IS")] = f"{count} images are fewer than its {judges.splits} splits"
    if count // 2 < _LEAST_SUBSET:
        missing[judges.network.metric("KID")] = f"{count} images are fewer than {2 * _LEAST_SUBSET}"
    return missing
