"""What a run writes down as it goes: one JSON line a record, and TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...checkpoint.atomic import whole_file
from ...validation import finite

METRICS_NAME = "metrics.jsonl"


class Journal:
    """Records of a run, in `metrics.jsonl` and for TensorBoard.

    Args:
        after: the step that the run goes on from; later records, of steps that are made again, are dropped.
    """

    def __init__(self, folder: Path, after: int, *, tensorboard: bool) -> None:
        self._path = folder / METRICS_NAME
        kept = [row for row in read_records(folder) if row["step"] <= after]
        with whole_file(self._path) as draft:
            draft.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._path, flags), "a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """One record: `kind` is "train" or "validation"; what is not a finite number becomes null."""
        self._file.write(_line({"step": step, "kind": kind, **values}))
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, pixels: Any) -> None:
        """Show a picture, uint8 (H, W, C), in TensorBoard."""
        if self._board is not None:
            self._board.add_image("validation/reconstructions", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(finite(row), allow_nan=False) + "\n"


def is_utf8(path: Path) -> bool:
    """Whether a path is text to a library that knows only UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace") == str(path)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; a line that was cut short when its process died is left out."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
