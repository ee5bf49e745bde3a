"""The picture that a denoiser of one picture learns from, sharp and blurred at every size."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError, RecipeError
from ..generators import mixed
from ..training.data import Sample, Stream, image_tensor
from ..training.schema import Scales
from .record import Pyramid
from .scales import distance, sizes_of


@dataclass(frozen=True)
class Sizes:
    """One picture at every size, coarse to fine.

    Args:
        pyramid: what sampling must know of it.
        sharp: the picture made smaller, each (C, H, W).
        blurry: the size before it made larger, of the same shapes; the coarsest is its own.
    """

    pyramid: Pyramid
    sharp: tuple[Tensor, ...]
    blurry: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Sizes:
        """The same on a device."""
        return Sizes(self.pyramid, *(tuple(t.to(device) for t in all_) for all_ in (self.sharp, self.blurry)))

    def blurred(self, scale: int, shares: Tensor) -> Tensor:
        """The picture at one size, blurred as far as each of `shares` (B,) says: (B, C, H, W)."""
        share = shares.reshape(-1, 1, 1, 1)
        return share * self.blurry[scale] + (1 - share) * self.sharp[scale]


def sizes_of_picture(stream: Stream, settings: Scales) -> Sizes:
    """The only picture of a stream, at every size.

    Raises:
        RecipeError: there are more; or it is too small.
        DataError: it cannot be read.
    """
    images, data = stream.images, stream.data
    if len(images) != 1:
        raise RecipeError(
            f"scales are of one picture, and {images.where} holds {len(images)}: name a file, or set data.select"
        )
    picture = images.picture(0)
    if picture.mode != "F":  # what is resized is what is seen
        picture = picture.convert("RGB" if data.channels == 3 else "L")
    factor, sizes = sizes_of(*picture.size, settings)
    pictures = [picture.resize(size, Image.Resampling.LANCZOS) for size in sizes]
    enlarged = [small.resize(size, Image.Resampling.BILINEAR) for small, size in zip(pictures, sizes[1:], strict=False)]
    sharp = tuple(image_tensor(p, data, None) for p in pictures)
    blurry = (sharp[0], *(image_tensor(p, data, None) for p in enlarged))
    distances = tuple(distance(s, b, data.range) for s, b in zip(sharp[1:], blurry[1:], strict=True))
    return Sizes(Pyramid(factor=factor, sizes=sizes, distances=distances), sharp, blurry)


@dataclass
class ScaleStream(Stream):
    """An endless row of scales' numbers in place of images: one for all of a step, drawn evenly.

    Args:
        count: how many scales there are.
        batch_size: images of a step.
    """

    count: int = field(kw_only=True)
    batch_size: int = field(kw_only=True)

    def __getitem__(self, position: int) -> Sample | DataError:
        drawn = torch.Generator().manual_seed(mixed(self.seed, 6, position // self.batch_size))
        return Sample(torch.randint(self.count, (), generator=drawn))
