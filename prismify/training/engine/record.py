"""What a run tells and writes down as it goes: words and events to whoever watches, and its journal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .events import Event, Watch
from .journal import METRICS_NAME, Journal, is_utf8
from .written import Written


class Record:
    """The voice of a run's leading process; the others' say and write nothing.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path, watch: Watch, *, leads: bool) -> None:
        self.folder, self.watch, self.leads = folder, watch, leads
        self._journal: Journal | None = None
        self._pace: tuple[float, int] = (time.monotonic(), 0)

    def say(self, text: str, step: int) -> None:
        """Tell a line."""
        if self.leads:
            self.watch(Event("said", step, text))

    def count(self, text: str, done: int, of: int, step: int) -> None:
        """Tell how far something is that is no step."""
        if self.leads:
            self.watch(Event("counted", step, text, {"done": done, "of": of}))

    def open(self, step: int, length: Mapping[str, float], written: Written, *, tensorboard: bool) -> None:
        """Open the journal behind `step`, and tell where the run stands (`length`, as of an event that it began)."""
        written.note(self.folder / METRICS_NAME)
        if tensorboard and not is_utf8(self.folder):
            self.say(f"no TensorBoard: its writer takes no folder whose name is not UTF-8, as {self.folder}", step)
            tensorboard = False
        boards = self.folder / "tensorboard"
        before = set(boards.glob("events.*"))
        self._journal = Journal(self.folder, step, tensorboard=tensorboard)
        written.note(*sorted(set(boards.glob("events.*")) - before))
        self.watch(Event("began", step, values=length))

    def restart_pace(self, step: int) -> None:
        """Measure the speed from here on."""
        self._pace = (time.monotonic(), step)

    def step(
        self, step: int, values: Mapping[str, float], seconds: float, batch_size: int, device: torch.device
    ) -> None:
        """Write down a step, with the run's seconds and its speed since the last one written, in images a second."""
        now = time.monotonic()
        (before, last), self._pace = self._pace, (now, step)
        told = {**values, "images_per_second": (step - last) * batch_size / max(1e-9, now - before)}
        if device.type == "cuda":
            told["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        self._write("train", "step", step, {**told, "seconds": seconds})

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        """Write down a measurement."""
        if self.leads:
            self._write("validation", "measured", step, dict(values))

    def picture(self, step: int, pixels: Any, written: Written) -> None:
        """Keep a picture of a step, uint8 (H, W, 3)."""
        from ..pictures import write_png

        assert self._journal is not None
        path = self.folder / "images" / f"step-{step:08d}.png"
        written.note(path)
        write_png(path, pixels)
        self._journal.picture(step, pixels)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _write(self, kind: Any, event: Any, step: int, values: dict[str, float]) -> None:
        assert self._journal is not None
        self._journal.write(kind, step, values)
        self.watch(Event(event, step, values=values))
