"""Latents of an autoencoder, or of a teacher: made once, kept in shards, and read in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import DataError, RecipeError
from ..generators import mixed
from ..graph.latents import decode, encode
from ..training.data import Sample, Stream, image_tensor
from ..training.engine import Run
from ..training.schema import Data, Latents
from .shards import SHARD, made_shards, shard_path


def weights_hash(model: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of a model's weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass
class LatentStream(Stream):
    """An endless row of latents, each as `(latent - mean) / deviation` with one number a channel.

    A latent that its autoencoder gives as a distribution is drawn anew each time.

    Args:
        folder: with the shards.
        mean, deviation: shape (C, 1, 1).
    """

    folder: Path = field(kw_only=True)
    mean: Tensor = field(kw_only=True)
    deviation: Tensor = field(kw_only=True)

    def __getitem__(self, position: int) -> Sample | DataError:
        epoch, place = divmod(position, len(self.images))
        index = int(self._order(epoch)[place])
        drawn = torch.Generator().manual_seed(mixed(self.seed, 1, position))
        flipped = self.data.flip and bool(torch.rand((), generator=drawn) < 0.5)
        try:
            latent = self._latent(index, int(flipped), drawn)
        except DataError as error:
            return error
        return Sample(latent, *self.told(index))

    def first(self) -> Tensor:
        return self._latent(0, 0, None)[None]

    def numbered(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[tuple[list[int], Tensor]]:
        mine = range(rank, len(self.images), processes)
        for first in range(0, len(mine), size):
            numbers = list(mine[first : first + size])
            yield numbers, torch.stack([self._latent(index, 0, None) for index in numbers])

    def _latent(self, index: int, flipped: int, drawn: torch.Generator | None) -> Tensor:
        shard, row = divmod(index, SHARD)
        path = shard_path(self.folder, shard)
        try:
            with safe_open(path, framework="pt") as file:
                latent: Tensor = file.get_slice("mean")[row, flipped]
                if drawn is not None and "log_variance" in file.keys():  # noqa: SIM118 - it is no dict
                    spread = (0.5 * file.get_slice("log_variance")[row, flipped]).exp()
                    latent = latent + spread * torch.randn(latent.shape, generator=drawn)
        except Exception as error:  # the file is somebody's disk
            raise DataError(f"{path} is damaged or gone ({' '.join(str(error).split())[:100]}): remove it") from error
        return (latent - self.mean) / self.deviation


def check_cacheable(data: Data) -> None:
    """See that images are the same each time.

    Raises:
        RecipeError: they are cut anew each time.
    """
    if data.crop == "random":
        raise RecipeError(
            "data.crop=random cuts images anew each time, and latents are made once: set data.crop=center"
        )
    if data.size is None:
        raise RecipeError("latents of one size are needed: set data.size")
    if data.skip_damaged:
        raise RecipeError("latents are made of every image: set data.skip_damaged=false, and remove damaged images")


def own_scale(autoencoder: nn.Module) -> tuple[float, float]:
    """Mean and deviation of latents, as the config of diffusers' autoencoder has them.

    Raises:
        RecipeError: it has none.
    """
    config = getattr(autoencoder, "config", None)
    factor, shift = getattr(config, "scaling_factor", None), getattr(config, "shift_factor", None)
    if not isinstance(factor, (int, float)) or factor <= 0:
        raise RecipeError(f"latents.scale=own: the {type(autoencoder).__name__} has no scaling_factor: set unit")
    return float(shift or 0.0), 1 / float(factor)


def open_latents(
    run: Run, autoencoder: nn.Module, hashed: str, stream: Stream, settings: Latents, *, flips: bool
) -> LatentStream:
    """The latents of a stream's images, made where they are not there yet.

    Args:
        autoencoder: on the run's device, in evaluation mode.
        hashed: of its weights.
        flips: also of the images mirrored.

    Raises:
        RecipeError: the folder holds latents of something else.
        TrainingError: another run is making them.
    """
    images, data = stream.images, stream.data
    own = own_scale(autoencoder) if settings.scale == "own" else None
    facts = {
        "autoencoder": hashed,
        "images": f"{len(images)} {images.fingerprint()} {images.glimpse()}",
        "data": {key: getattr(data, key) for key in ("size", "channels", "background", "white")}
        | {"range": list(data.range)},
        "flips": flips,
    }

    def make(mine: range) -> dict[str, Tensor]:
        return _encoded(autoencoder, stream, mine, settings.batch_size, flips, run.device)

    folder = made_shards(run, settings.path, hashed, facts, len(images), make)
    mean, deviation = _statistics(folder, -(-len(images) // SHARD))
    if own is not None:
        mean, deviation = (torch.full_like(mean, value) for value in own)
    data = data if flips else replace(data, flip=False)
    return LatentStream(images, data, stream.seed, stream.reads_captions, folder=folder, mean=mean, deviation=deviation)


@torch.no_grad()
def decoded(autoencoder: nn.Module, latents: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Images (B, C, H, W) from what a denoiser makes of the latents (B, c, h, w) of an autoencoder."""
    scale, shift = (torch.tensor(v, device=latents.device).reshape(1, -1, 1, 1) for v in (deviation, mean))
    return decode(autoencoder, latents * scale + shift)[0]


@torch.no_grad()
def _encoded(
    model: nn.Module, stream: Stream, mine: range, size: int, flips: bool, device: torch.device
) -> dict[str, Tensor]:
    """A shard: `mean` and, of a distribution, `log_variance`, each (N, 1 or 2, c, h, w); the second is mirrored."""
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(mine), size):
        pictures = [stream.images.picture(index) for index in mine[first : first + size]]
        batch = torch.stack([image_tensor(p, stream.data, None) for p in pictures]).to(device)
        both = [encode(model, batch)] + ([encode(model, batch.flip(-1))] if flips else [])
        for name in ("mean", "log_variance"):
            values = [getattr(one, name) for one in both]
            if values[0] is not None:
                parts.setdefault(name, []).append(torch.stack([v.float().cpu() for v in values], 1))
    made = {name: torch.cat(tensors).contiguous() for name, tensors in parts.items()}
    if not all(bool(torch.isfinite(t).all()) for t in made.values()):
        names = f"{stream.images.names[mine[0]]} ... {stream.images.names[mine[-1]]}"
        raise DataError(f"{stream.images.where}: latents of {names} are not all numbers: look at the autoencoder")
    return made


def _statistics(folder: Path, shards: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over all latents, variances of their distributions included: (C, 1, 1)."""
    sums: Any = 0
    for number in range(shards):
        with safe_open(shard_path(folder, number), framework="pt") as file:
            mean = file.get_tensor("mean").double()
            spread = file.get_tensor("log_variance").double().exp() if "log_variance" in file.keys() else 0  # noqa: SIM118
        over = [axis for axis in range(mean.dim()) if axis != 2]
        squares = mean.square() + spread
        count = torch.full((mean.shape[2],), mean.numel() / mean.shape[2], dtype=torch.float64)
        sums = sums + torch.stack([mean.sum(over), squares.sum(over), count])
    mean = sums[0] / sums[2]
    deviation = (sums[1] / sums[2] - mean.square()).clamp_min(1e-12).sqrt()
    return mean.float().reshape(-1, 1, 1), deviation.float().reshape(-1, 1, 1)
