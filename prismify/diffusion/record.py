"""How a denoiser was trained, as a file beside its weights: what sampling from it must know."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.manifest import read_json
from ..errors import PlanError, SourceError
from ..training.model_files import DENOISING_NAME
from ..training.schema import ModelSource, Noise
from ..validation import build

FORMAT_VERSION = 1
#: Pixels, or channels, of the largest that is sampled.
_MOST_SIDE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The latents that a denoiser makes.

    Args:
        autoencoder: which decodes them.
        hash: SHA-256 of its weights, the first 16 digits.
        mean, deviation: of a latent's channels over the images; the denoiser makes (latent - mean) / deviation.
    """

    autoencoder: ModelSource
    hash: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """The sizes at which a denoiser saw its one picture, coarse to fine.

    Args:
        factor: by which a side shrinks from one to the one before it.
        sizes: width and height in pixels.
        distances: of each but the first, from the one before it, enlarged; see `scales.distance`. With the betas they
            say how blurred a size is at each time, and at which time it starts.
    """

    factor: float
    sizes: tuple[tuple[int, int], ...]
    distances: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a denoiser makes, and from what noise.

    Args:
        shape: of one picture or latent, (C, H, W).
        range: what black and white are, of pixels.
        classes: names of the classes it was told.
        null: the label by which it was told none.
        texts: the folder of the encoder of texts that it was told.
        scales: of one picture; None where it was trained at one size.
    """

    format_version: int = FORMAT_VERSION
    noise: Noise
    shape: tuple[int, ...]
    range: tuple[float, float] = (-1.0, 1.0)
    classes: tuple[str, ...] = ()
    null: int | None = None
    texts: str | None = None
    latents: LatentSpace | None = None
    scales: Pyramid | None = None


def record_files(trained: Trained) -> dict[str, dict[str, Any]]:
    """The record as a file of a model's folder: name -> JSON."""
    return {DENOISING_NAME: dataclasses.asdict(trained)}


def read_record(folder: Path) -> Trained:
    """The record in a folder.

    Raises:
        SourceError: there is none, or it is damaged, or of another version.
    """
    path = folder / DENOISING_NAME
    if not path.is_file():
        raise SourceError(
            f"{folder} does not say how its model was trained to denoise (it has no {DENOISING_NAME}): train it by the "
            "recipe diffusion, and name the run"
        )
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version")
        raise SourceError(f"{path} has format version {version!r}; this prismify reads {FORMAT_VERSION}")
    try:
        trained = build(Trained, content, str(path))
    except PlanError as error:
        raise SourceError(str(error)) from error
    if len(trained.shape) != 3 or min(trained.shape) < 1 or max(trained.shape) > _MOST_SIDE:
        raise SourceError(f"{path}: shape {list(trained.shape)} is not (channels, height, width)")
    black, white = trained.range
    if not -math.inf < black < white < math.inf or not 0 <= (trained.null or 0) < 2**31:
        raise SourceError(f"{path}: range {list(trained.range)} and null {trained.null} are no range and no label")
    if trained.latents is not None and not _are_of(trained.latents, trained.shape[0]):
        raise SourceError(f"{path}: mean and deviation of the latents are not a number for each of their channels")
    if trained.scales is not None and not _fits_together(trained.scales, trained.noise):
        raise SourceError(f"{path}: scales are not sizes from coarse to fine with the distances between them")
    return _with_parts(trained, folder)


def _with_parts(trained: Trained, folder: Path) -> Trained:
    """The record with the paths of what a push put into the model's own folder: its autoencoder and text encoder."""

    def found(name: str) -> str:
        path = Path(name)
        inside = len(path.parts) <= 1 and name != ".." and not path.is_absolute() and (folder / path).is_dir()
        return str(folder / path) if inside else name

    if trained.latents is not None:
        autoencoder = dataclasses.replace(trained.latents.autoencoder, source=found(trained.latents.autoencoder.source))
        trained = dataclasses.replace(trained, latents=dataclasses.replace(trained.latents, autoencoder=autoencoder))
    return trained if trained.texts is None else dataclasses.replace(trained, texts=found(trained.texts))


def _are_of(latents: LatentSpace, channels: int) -> bool:
    both = (latents.mean, latents.deviation)
    finite = all(abs(value) < math.inf for values in both for value in values)
    return finite and {len(values) for values in both} == {channels} and min(latents.deviation) > 0


def _fits_together(scales: Pyramid, noise: Noise) -> bool:
    return (
        noise.prediction != "flow"
        and len(scales.sizes) == len(scales.distances) + 1
        and all(side > 0 for size in scales.sizes for side in size)
        and all(0 <= distance < math.inf for distance in scales.distances)
        and 1 < scales.factor < math.inf
    )
