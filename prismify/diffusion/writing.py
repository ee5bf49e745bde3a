"""Samples on disk: a picture each, a grid of all, and what made them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint.atomic import whole_file
from ..checkpoint.manifest import write_json
from ..errors import OutputError
from ..training.engine.begin import hardware, versions
from ..training.pictures import check_own_table, check_replaceable, grid, write_png
from .making import Wanted, make_pictures, steps_and_sampler
from .opening import Opened

GRID_NAME, FACTS_NAME = "grid.png", "samples.json"
#: Pictures on the grid: the first of them.
MOST_SHOWN = 100


def picture_name(index: int, count: int) -> str:
    """The file of picture number `index` of `count`."""
    return f"{index:0{max(4, len(str(count - 1)))}d}.png"


def check_place(folder: Path, count: int) -> None:
    """See that samples take the place of nothing but earlier ones, before they are made.

    Raises:
        OutputError: they would.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another output")
    check_replaceable(folder, [folder / GRID_NAME, *(folder / picture_name(i, count) for i in range(count))])
    check_own_table(folder / FACTS_NAME, {"sampler", "seed"})


def write_samples(
    opened: Opened,
    wanted: Wanted,
    folder: Path,
    name: str,
    device: torch.device,
    watch: Callable[[int, int], None],
) -> dict[str, Any]:
    """Make pictures and write them; returns the facts that are written beside them.

    Args:
        name: what the person called the model.

    Raises:
        OutputError: the folder cannot be written.
        RecipeError: see `make_pictures`.
    """
    steps, sampler = steps_and_sampler(opened.trained, wanted)
    first: list[Any] = []
    classes: list[str] = []
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pixels, labels in make_pictures(opened, wanted, device, watch):
            (folder / FACTS_NAME).unlink(missing_ok=True)  # it would speak of pictures that are now replaced
            for index, picture in enumerate(pixels, len(classes)):
                write_png(folder / picture_name(index, wanted.count), picture)
            first += list(pixels[: max(0, MOST_SHOWN - len(classes))])
            classes += labels
        write_png(folder / GRID_NAME, grid(np.stack(first)))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        if not there:
            with suppress(OSError):  # which it is where something was written
                folder.rmdir()
    facts = {
        "model": name,
        "weights": opened.which,
        **dataclasses.asdict(wanted),
        "steps": steps,
        "sampler": sampler,
        "width": first[0].shape[1],
        "height": first[0].shape[0],
        "classes": classes if opened.trained.classes else [],
        "trained": dataclasses.asdict(opened.trained),
        "hardware": hardware(device),
        "versions": versions(),
    }
    with whole_file(folder / FACTS_NAME) as draft:
        write_json(draft, facts)
    return facts
