"""A torch.export program of a model's method: `torch.export.load` runs it where prismify is not installed."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint.atomic import whole_file
from ..errors import OutputError
from .entry import Entry, program_of


def write_program(entry: Entry, path: Path, *, dynamic: bool = False) -> int:
    """Write a method of a model as an exported program in torch's own operators; returns how many bytes.

    Args:
        dynamic: leave every size open that the model leaves open.

    Raises:
        ConversionError: `torch.export` cannot follow the model.
        OutputError: the file cannot be written.
    """
    program = program_of(entry, None, dynamic=dynamic)
    try:
        with whole_file(path) as draft, draft.open("wb") as file:
            torch.export.save(program, file)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path.stat().st_size
