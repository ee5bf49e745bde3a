"""The order of images, and the tensors they become. Everything here is a function of the seed and a position."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...errors import DataError
from ...generators import mixed
from ..schema import Data
from .images import Images, open_images

_MOST_SKIPPED = 100


def order_of(count: int, seed: int, epoch: int) -> Tensor:
    """The permutation of one pass over `count` images."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


@dataclass(frozen=True)
class Shares:
    """How a step's batch is split: into `parts` one after the other, each among `processes`.

    The images of a step are the same for any split, so one process and eight see the same batches.
    """

    batch_size: int
    parts: int
    processes: int
    rank: int

    @property
    def size(self) -> int:
        """Images that one process takes at a time."""
        return self.batch_size // (self.parts * self.processes)

    def positions(self, step: int, part: int) -> range:
        """Which of the endless row of images this process takes, in part `part` of step `step` (from 0)."""
        begin = step * self.batch_size + (part * self.processes + self.rank) * self.size
        return range(begin, begin + self.size)


class Sample(NamedTuple):
    """An image as the model sees it, (C, H, W), and its class and what is said of it, where it has them."""

    image: Tensor
    label: int | None = None
    caption: str | None = None


class Batch(NamedTuple):
    """Images (B, C, H, W), and their classes (B,), int64, and captions, where they have them."""

    images: Tensor
    labels: Tensor | None = None
    captions: list[str] | None = None


@dataclass
class Stream(Dataset[Any]):
    """An endless row of images: pass after pass, each in an order of its own.

    Args:
        reads_captions: also what is said of an image, where something is.
    """

    images: Images
    data: Data
    seed: int
    reads_captions: bool = False

    def __post_init__(self) -> None:
        self._order = functools.lru_cache(maxsize=2)(lambda epoch: order_of(len(self.images), self.seed, epoch))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def __getitem__(self, position: int) -> Sample | DataError:
        """What stands at a position; an error as a value, since raising in a worker loses its message."""
        epoch, place = divmod(position, len(self.images))
        try:
            for ahead in range(_MOST_SKIPPED):
                index = int(self._order(epoch)[(place + ahead) % len(self.images)])
                try:
                    image = image_tensor(self.images.picture(index), self.data, mixed(self.seed, 1, position))
                    return Sample(image, *self.told(index))
                except DataError:
                    if not self.data.skip_damaged:
                        raise
            raise DataError(f"{self.images.where}: {_MOST_SKIPPED} images in a row cannot be read")
        except DataError as error:
            return error

    def told(self, index: int) -> tuple[int | None, str | None]:
        """The class of image number `index`, and what is said of it."""
        images = self.images
        label = None if images.labels is None else images.labels[index]
        return label, images.captions(index) if images.captions is not None and self.reads_captions else None

    def first(self) -> Tensor:
        """The first image as a batch of one: (1, C, H, W)."""
        return image_tensor(self.images.picture(0), self.data, None)[None]

    def in_order(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[Tensor]:
        """Batches of this process's share of the images, each image once, neither turned nor shifted.

        A batch holds at most `size` images, of one height and width.
        """
        return (images for _, images in self.numbered(size, rank, processes))

    def numbered(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[tuple[list[int], Tensor]]:
        """The same with the numbers of the images."""
        waiting: list[Tensor] = []
        numbers: list[int] = []
        for index in range(rank, len(self.images), processes):
            try:
                image = image_tensor(self.images.picture(index), self.data, None)
            except DataError:
                if self.data.skip_damaged:
                    continue
                raise
            if waiting and (len(waiting) == size or waiting[0].shape != image.shape):
                yield numbers, torch.stack(waiting)
                waiting, numbers = [], []
            waiting.append(image)
            numbers.append(index)
        if waiting:
            yield numbers, torch.stack(waiting)
        elif rank < len(self.images):
            raise DataError(f"{self.images.where}: none of the {len(self.images)} images can be read")


def batches(stream: Stream, shares: Shares, first_step: int) -> Iterator[Tensor]:
    """The images of `told_batches` alone: each (size, C, H, W)."""
    return (batch.images for batch in told_batches(stream, shares, first_step))


def first_batches(stream: Stream, count: int, size: int) -> Iterator[Tensor]:
    """The images of `first_told` alone: each (size, C, H, W)."""
    return (batch.images for batch in first_told(stream, count, size))


def first_told(stream: Stream, count: int, size: int) -> Iterator[Batch]:
    """The first `count` images of a run, `size` at a time: the same in every process and after every start."""
    size = min(size, count)
    return islice(told_batches(stream, Shares(size, 1, 1, 0), 0), -(-count // size))


def told_batches(stream: Stream, shares: Shares, first_step: int) -> Iterator[Batch]:
    """The parts of this process from `first_step` (from 0) on, endlessly, of `shares.size` images.

    Raises:
        DataError: an image cannot be read; or images differ in size and none was given.
    """
    loader = DataLoader(
        stream,
        batch_sampler=_Sampler(shares, first_step),
        num_workers=stream.data.workers,
        collate_fn=list,
        pin_memory=False,
        persistent_workers=stream.data.workers > 0,
        # Else it draws a seed for its workers from the model's generator, in the first step after each start alone.
        generator=torch.Generator().manual_seed(stream.seed),
    )
    for items in loader:
        yield stacked(items, stream.images.where)


@dataclass(frozen=True)
class _Sampler:
    shares: Shares
    first_step: int

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            for part in range(self.shares.parts):
                yield list(self.shares.positions(step, part))
            step += 1


def stacked(items: Sequence[Sample | DataError], where: str) -> Batch:
    """Equal images as one batch.

    Raises:
        DataError: one of them is an error, or their sizes differ.
    """
    samples = []
    for item in items:
        if isinstance(item, DataError):
            raise item
        samples.append(item)
    sizes = {tuple(s.image.shape) for s in samples}
    if len(sizes) > 1:
        one, other, *_ = sorted(sizes)
        raise DataError(f"{where}: images differ in size ({one[1:]} and {other[1:]}): set data.size")
    labels = [s.label for s in samples if s.label is not None]
    captions = [s.caption for s in samples if s.caption is not None]
    return Batch(torch.stack([s.image for s in samples]), torch.tensor(labels) if labels else None, captions or None)


def image_tensor(picture: Image.Image, data: Data, seed: int | None) -> Tensor:
    """An image as the model sees it: (C, H, W), float32, black and white at `data.range`.

    Args:
        picture: as `Images.picture` gives it.
        seed: of the crop and the flip; None cuts the middle and never flips.
    """
    draws = np.random.default_rng(seed) if seed is not None and (data.flip or data.crop == "random") else None
    if picture.mode != "F":  # which has more levels than RGB could keep
        picture = picture.convert("RGB" if data.channels == 3 else "L")
    if data.size is not None:
        picture = _cut(picture, data.size, draws if data.crop == "random" else None)
    pixels = np.asarray(picture)
    if data.flip and draws is not None and draws.random() < 0.5:
        pixels = pixels[:, ::-1]
    tensor = torch.from_numpy(pixels.copy())
    if picture.mode == "F":  # in which resampling overshoots
        tensor = tensor.clamp_(0, 255).expand(data.channels, -1, -1).clone()
    else:
        tensor = tensor.permute(2, 0, 1).contiguous() if tensor.dim() == 3 else tensor[None]
    black, white = data.range
    return tensor.float().mul_((white - black) / 255).add_(black)


def _cut(picture: Image.Image, size: int, draws: np.random.Generator | None) -> Image.Image:
    """Resize the shorter side to `size`, then cut a square out of the middle, or anywhere."""
    width, height = picture.size
    if min(width, height) != size:
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if (width, height) == (size, size):
        return picture
    free = (width - size, height - size)
    left, top = (f // 2 for f in free) if draws is None else (int(draws.integers(f + 1)) for f in free)
    return picture.crop((left, top, left + size, top + size))


def open_data(data: Data, seed: int) -> tuple[Stream, Stream | None]:
    """The images to train on, and those to measure on (None where `validation` is 0).

    Raises:
        DataError: see `open_images`; or no image is left to train on.
    """
    images = open_images(data)
    if data.validation == 0:
        return Stream(images, data, seed), None
    if data.validation_path is not None or data.validation_select is not None:
        path = data.validation_path
        held = open_images(data, path=path, select=data.validation_select)
        held = _in_classes_of(images, held.subset(order_of(len(held), 0, 0)[: data.validation].tolist()))
    else:
        if len(images) <= data.validation:
            raise DataError(
                f"{images.where} holds {len(images)} images, and data.validation={data.validation} of them are held "
                f"out: none is left to train on; set data.validation to at most {len(images) - 1}"
            )
        order = order_of(len(images), 0, 0)
        held = images.subset(order[: data.validation].tolist())
        images = images.subset(order[data.validation :].sort().values.tolist())
    return Stream(images, data, seed), Stream(held, data, seed)


def _in_classes_of(images: Images, held: Images) -> Images:
    """Images from elsewhere with the class numbers of those that are trained on; no labels where those lack one."""
    if held.labels is None or images.labels is None or held.classes == images.classes:
        return held
    numbers = {name: number for number, name in enumerate(images.classes)}
    if any(name not in numbers for name in {held.classes[label] for label in held.labels}):
        return replace(held, labels=None, classes=())
    return replace(held, labels=[numbers[held.classes[label]] for label in held.labels], classes=images.classes)
