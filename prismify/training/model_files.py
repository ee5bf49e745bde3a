"""The files of a model that a run writes: which are its own, and how they are removed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..checkpoint.cards import CARD_NAME, edited_card
from ..checkpoint.manifest import CONFIG_NAME, MANIFEST_NAME, files_in, listed, not_listed, read_json
from ..errors import PrismifyError

#: How a denoiser was trained, in its folder.
DENOISING_NAME = "denoising.json"
#: What unconverted models are written as.
_PLAIN_FILES = (CONFIG_NAME, "model.safetensors", "diffusion_pytorch_model.safetensors", DENOISING_NAME)


def strange_files(model: Path) -> list[str]:
    """What lies in a model's folder and is not of it; a card that a person edited is that person's."""
    if not model.is_dir():
        return []
    if (model / MANIFEST_NAME).is_file():
        edited = [CARD_NAME] if edited_card(model) is not None else []
        return [*not_listed(model), *edited]
    return sorted(name for name in files_in(model) if name not in _PLAIN_FILES)


def remove_model(folder: Path) -> None:
    """Remove a model that a run wrote: the files that its manifest lists, or the usual ones."""
    names: Iterable[str] = _PLAIN_FILES
    if (folder / MANIFEST_NAME).is_file():
        with suppress(PrismifyError):
            names = [*(listed(read_json(folder / MANIFEST_NAME)) or ()), MANIFEST_NAME]
    for name in names:
        path = folder / name
        if is_inside(folder, path) and not path.is_dir():
            path.unlink(missing_ok=True)
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # what else lies in there is not the run's
            os.rmdir(place)


def is_inside(folder: Path, path: Path) -> bool:
    """Whether a path lies in a folder, and no link leads there."""
    relative = path.relative_to(folder)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        return False
    return not any((folder / parent).is_symlink() for parent in relative.parents if parent != Path("."))
