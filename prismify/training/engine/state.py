"""A run's state on disk: whole or not there, the last few and the best."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.atomic import whole_folder
from ...checkpoint.formats import check_unpacked
from ...errors import OutputError

_STEP = re.compile(r"^step-(\d{8,})$")
_STATE_NAME = "state.pt"
_PARTS = {"step", "seconds", "best", "data", "recipe", "divergence", "parts"}


def write_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps; it is there whole or not at all, whenever the process dies.

    Raises:
        OutputError: the disk does not take it; earlier states stay.
    """
    place = folder / f"step-{step:08d}"
    if place.exists():
        return place
    with whole_folder(place) as draft:
        try:
            torch.save(state, draft / _STATE_NAME)
        except RuntimeError as error:  # torch wraps what the disk says
            text = " ".join(str(error).split())[:160]
            raise OSError(
                "the disk is full, or takes no file so large" if "inline_container" in text else text
            ) from error
    return place


def state_path(folder: Path, step: int) -> Path:
    """The file that holds the state after `step` steps."""
    return folder / f"step-{step:08d}" / _STATE_NAME


def states(folder: Path) -> list[int]:
    """The steps whose state is there, ascending."""
    if not folder.is_dir():
        return []
    found = (_STEP.match(p.name) for p in folder.iterdir() if (p / _STATE_NAME).is_file())
    return sorted(int(match.group(1)) for match in found if match)


def read_state(folder: Path, step: int) -> dict[str, Any]:
    """A state that `write_state` wrote, on the CPU.

    Raises:
        OutputError: it is damaged.
    """
    path = state_path(folder, step)
    try:
        check_unpacked(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if missing := _PARTS - set(state):
            raise ValueError(f"it has no {min(missing)}")
    except Exception as error:
        raise OutputError(f"{path} is damaged ({' '.join(str(error).split())[:120]})") from error
    return state


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove all states but the last `keep` and the best one."""
    for step in states(folder)[:-keep]:
        if step != best:
            place = folder / f"step-{step:08d}"
            with suppress(OSError):  # what else lies in there is not the run's
                (place / _STATE_NAME).unlink()
                place.rmdir()
