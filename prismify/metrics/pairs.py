"""Pictures beside what an autoencoder makes of them, at any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import OutputError, RecipeError, SourceError
from ..graph.latents import encode
from ..training.data import Stream, image_tensor
from ..training.measure import psnr
from ..training.models import reconstruct
from ..training.pictures import check_replaceable, sheet, to_pixels, write_png
from ..training.schema import Data

_PROBE = 64


def write_pairs(model: nn.Module, images: Stream, folder: Path, device: torch.device) -> Iterator[tuple[str, float]]:
    """Write each image beside its reconstruction as `folder/NAME.png`; yields its name and PSNR in dB.

    Raises:
        OutputError: the folder cannot be written, or a file of somebody else's would be replaced.
        SourceError: the model does not take such images.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another output")
    places = _places(folder, images.images.names)
    check_replaceable(folder, places)
    multiple = reduction(model, images.data.channels, device)
    for index, name in enumerate(images.images.names):
        image = image_tensor(images.images.picture(index), images.data, None)[None].to(device)
        output = padded_reconstruction(model, image, multiple)
        page = sheet([to_pixels(torch.cat([image, output]), images.data.range)])
        try:
            write_png(places[index], page)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
        yield name, float(psnr(output, image, images.data.range))


@dataclass(frozen=True)
class Compared:
    """One picture beside what an autoencoder makes of it.

    Args:
        original, reconstruction, difference: uint8 (H, W, 3); the difference is absolute, its largest value white.
        decibels: PSNR.
    """

    original: Any
    reconstruction: Any
    difference: Any
    decibels: float


def compared(model: nn.Module, picture: Image.Image, data: Data, device: torch.device) -> Compared:
    """Reconstruct one picture as the model's run saw images.

    Raises:
        SourceError: the model does not take such images.
    """
    image = image_tensor(picture, data, None)[None].to(device)
    output = padded_reconstruction(model, image, reduction(model, data.channels, device))
    apart = (output.clamp(*data.range) - image).abs()
    black, white = data.range
    scaled = black + (white - black) * apart / apart.max().clamp(min=1e-12)
    pages = [to_pixels(one, data.range)[0] for one in (image, output, scaled)]
    return Compared(pages[0], pages[1], pages[2], float(psnr(output, image, data.range)))


def _places(folder: Path, names: Sequence[str]) -> list[Path]:
    """Where each image's page goes: below the folder, whatever an archive calls it, and no two in one place.

    Names that differ in case alone are one on some file systems, and a page is no folder of others.
    """
    all_parts = [[p for p in PurePosixPath(name).parts if p not in ("/", "..")] or ["image"] for name in names]
    folders = {_folded(parts[:length]) for parts in all_parts for length in range(1, len(parts))}
    taken: set[tuple[str, ...]] = set()
    places = []
    for index, parts in enumerate(all_parts):
        *above, last = parts
        stem = PurePosixPath(last).with_suffix(".png").name
        for leaf in chain((stem, f"{last}.png"), (f"{last}.{index}{'_' * more}.png" for more in count())):
            key = _folded([*above, leaf])
            if key not in taken and key not in folders:
                break
        taken.add(key)
        places.append(folder.joinpath(*above, leaf))
    return places


def _folded(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts)


def reduction(model: nn.Module, channels: int, device: torch.device) -> int:
    """How many pixels a side one position of the latents stands for.

    Raises:
        SourceError: the model does not run on an image.
    """
    try:
        with torch.no_grad():
            mean = encode(model, torch.zeros(1, channels, _PROBE, _PROBE, device=device)).mean
    except RecipeError:
        raise
    except Exception as error:  # whatever somebody's model raises
        text = " ".join(str(error).split())[:160]
        raise SourceError(f"{type(model).__name__} does not take images of {_PROBE}x{_PROBE}: {text}") from error
    return max(1, _PROBE // mean.shape[-1]) if mean.dim() == 4 else 1


def padded_reconstruction(model: nn.Module, image: Tensor, multiple: int) -> Tensor:
    """The reconstruction of images whose sides need not divide: their edges are repeated, and cut off again."""
    height, width = image.shape[-2:]
    more = (-width % multiple, -height % multiple)
    whole = F.pad(image, (0, more[0], 0, more[1]), mode="replicate") if any(more) else image
    return reconstruct(model, whole)[..., :height, :width]
