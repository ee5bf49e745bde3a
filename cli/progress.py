"""The bar of a run: steps and time left, to the last step or the clock's end, and as many numbers as fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    from ..training.engine import Event


def run_progress(console: Console) -> Progress:
    """The bar, on a terminal; what does not fit beside steps and time is cut, never those."""
    whole = Column(no_wrap=True)
    return Progress(
        MofNCompleteColumn(table_column=whole),
        _ShareDone(16),
        _TimeLeft(table_column=whole),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=console,
        expand=True,
        transient=True,
        disable=not console.is_terminal,
    )


@dataclass(frozen=True)
class Pace:
    """Where a run stood when it was taken up, and where it may end.

    Args:
        step, seconds: at the start.
        steps: the last step.
        limit: seconds of training after which the clock ends it; None where none does.
    """

    step: int
    seconds: float
    steps: int
    limit: float | None

    @staticmethod
    def of(began: Event) -> Pace:
        values = began.values
        return Pace(began.step, values.get("seconds", 0.0), int(values["steps"]), values.get("limit"))

    def left(self, step: int, seconds: float) -> float:
        """Seconds to whichever comes first, the last step or the clock's end."""
        by_steps = (self.steps - step) * (seconds - self.seconds) / max(1, step - self.step)
        return by_steps if self.limit is None else max(0.0, min(by_steps, self.limit - seconds))


class _ShareDone(BarColumn):
    """The share of time where that is known, else of steps."""

    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        if task.fields.get("share") is not None:
            bar.total, bar.completed = 1.0, task.fields["share"]
        return bar


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        ends = task.fields.get("ends")
        if ends is None:  # nothing is known of the end: a clock shows that something is done
            minutes, seconds = divmod(int(task.elapsed or 0), 60)
            return Text(f"{minutes}:{seconds:02d}", style="progress.elapsed")
        minutes, seconds = divmod(int(max(0.0, ends - time.monotonic())), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}", style="progress.remaining")
