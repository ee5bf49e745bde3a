"""Sets of pictures that a model made: read from where they lie, or made by a denoiser while they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..diffusion.making import Wanted, make_pictures, steps_and_sampler
from ..diffusion.opening import Opened
from ..diffusion.writing import FACTS_NAME, GRID_NAME, picture_name
from ..errors import DataError
from ..training.data import Images, Stream, open_images, order_of
from ..training.schema import Data
from ..validation import read_json_file

#: What `prismify sample` says of how pictures were made.
_SAID = ("model", "weights", "steps", "sampler", "seed", "label", "prompt", "guidance")


@dataclass(frozen=True)
class SampleSet:
    """Pictures of one model.

    Args:
        count: how many.
        size: width and height of the first, in pixels.
        batches: reads or makes them, once: uint8 (B, 3, H, W), each batch of one size.
        made_by: what is known of how they were made.
        left_out: pictures beside them that are none of them.
    """

    count: int
    size: tuple[int, int]
    batches: Iterator[Tensor] = field(repr=False)
    made_by: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read_samples(where: str, count: int | None = None, *, seed: int = 0, batch_size: int = 64) -> SampleSet:
    """The pictures in a folder, tar or npz.

    Of a folder that `prismify sample` wrote, those that it last wrote; a grid of all is no picture.

    Args:
        count: how many of them, drawn by `seed`; None takes all.

    Raises:
        DataError: there are none, or fewer; or one that samples.json tells of is gone.
    """
    # Black and white at 0 and 255, so that pixels come out as they lie there.
    data = Data(path=where, range=(0.0, 255.0), validation=0)
    images, said = open_images(data), _facts(Path(where))
    chosen, left_out = _pictures(images, said)
    if count is not None and count > len(chosen):
        raise DataError(f"{where} holds {len(chosen)} pictures, fewer than {count}: give --count {len(chosen)}")
    if count is not None:
        chosen = [chosen[i] for i in order_of(len(chosen), seed, 0)[:count].sort().values.tolist()]
    stream = Stream(images.subset(chosen), data, 0)
    size, batches = _begun(batch.round().to(torch.uint8) for batch in stream.in_order(batch_size))
    return SampleSet(len(chosen), size, batches, {key: said[key] for key in _SAID if key in said}, left_out)


def made_samples(
    opened: Opened,
    wanted: Wanted,
    device: torch.device | str = "cpu",
    watch: Callable[[int, int], None] = lambda done, steps: None,
) -> SampleSet:
    """The pictures that a denoiser makes; the first batch is made at once.

    Raises:
        RecipeError: it does not make what is asked for.
    """
    made = make_pictures(opened, wanted, device, watch)
    size, batches = _begun(torch.from_numpy(pixels).permute(0, 3, 1, 2) for pixels, _ in made)
    said = {key: getattr(wanted, key) for key in _SAID if hasattr(wanted, key)}
    steps, sampler = steps_and_sampler(opened.trained, wanted)
    said |= {"weights": opened.which, "steps": steps, "sampler": sampler}
    return SampleSet(wanted.count, size, batches, said)


def equal_count(counts: Iterable[tuple[str, int]]) -> None:
    """See that sets are equally large.

    Raises:
        DataError: they are not; numbers over different N do not compare.
    """
    (first, least), *others = counts
    for name, count in others:
        if count != least:
            raise DataError(
                f"{first} holds {least} pictures, {name} {count}, and numbers over different N do not compare: give "
                f"--count {min(least, count)}"
            )


def _begun(batches: Iterator[Tensor]) -> tuple[tuple[int, int], Iterator[Tensor]]:
    """Width and height of the first picture, and all batches."""
    first = next(batches)
    return (first.shape[3], first.shape[2]), chain([first], batches)


def _facts(folder: Path) -> dict[str, Any]:
    """What `prismify sample` wrote beside its pictures; {} where it did not."""
    path = folder / FACTS_NAME
    try:
        found = read_json_file(path) if folder.is_dir() and path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"sampler", "seed"} <= found.keys() else {}


def _pictures(images: Images, said: dict[str, Any]) -> tuple[list[int], tuple[str, ...]]:
    """Which images are samples, and the names of the others."""
    count = said.get("count")
    if isinstance(count, int) and count >= 1:
        # Earlier pictures stay where a smaller number took their place, and may be another model's.
        wanted = {picture_name(index, count) for index in range(min(count, len(images) + 1))}
        gone = sorted(wanted - set(images.names))
        if gone:
            raise DataError(f"{images.where}: {FACTS_NAME} tells of {count} pictures, and {gone[0]} is not there")
    else:
        wanted = {name for name in images.names if PurePosixPath(name).name != GRID_NAME}
    chosen = [index for index, name in enumerate(images.names) if name in wanted]
    if not chosen:
        raise DataError(f"{images.where} holds no picture but {GRID_NAME}, which shows many at once")
    return chosen, tuple(name for name in images.names if name not in wanted)
