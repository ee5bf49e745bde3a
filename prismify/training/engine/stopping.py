"""When a run stops: its minutes are up, a signal came, or its losses have gone astray."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..losses import Divergence

#: A terminal that closes sends SIGHUP, which not every system knows and `nohup` has ignored.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_HANGUP = getattr(signal, "SIGHUP", None)


@contextmanager
def handled_signals(note: Callable[[int, object], None]) -> Iterator[None]:
    """Let `note` be told of the signals that end a program; other threads than the main one are told nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [s for s in _ENDING if s == signal.SIGINT or signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, note) for s in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopping:
    """A run's clock, its signals and its losses, as all its processes agree on them.

    Args:
        minutes: how long it may train, over all its starts; None for as long as its steps take.
        divergence: how many times its running mean a term may reach.
    """

    def __init__(self, minutes: float | None, divergence: float) -> None:
        self.minutes = minutes
        self.clock = 0.0
        self.time_is_up = False
        self.signal = 0
        self._divergence = Divergence(divergence)
        self._noted = 0
        self._before, self._since = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has trained, over all its starts, by this process's clock."""
        return self._before + time.monotonic() - self._since

    @property
    def stops(self) -> bool:
        """Whether the step that the run is in is its last for now."""
        return self.time_is_up or self.signal > 0

    def start(self, seconds: float = 0.0) -> None:
        """Go on after so many seconds."""
        self._before, self._since, self.clock = seconds, time.monotonic(), seconds

    def note_signal(self, number: int, frame: object) -> None:
        """A signal's handler: it ends the run after its step, and at once the second time.

        A terminal that closes sends its signal more than once, and nobody is impatient.
        """
        if self._noted and number != _HANGUP:
            raise KeyboardInterrupt
        self._noted = number

    def flags(self, device: torch.device) -> Tensor:
        """What this process knows, to be averaged over all of them."""
        seconds = self.seconds
        late = self.minutes is not None and seconds > 60 * self.minutes
        return torch.tensor([seconds, float(late), float(self._noted)], device=device)

    def agree(self, flags: list[float]) -> None:
        """Take what the processes know together: the mean of their `flags`."""
        self.clock, self.time_is_up = flags[0], flags[1] > 0
        self.signal = (self._noted or signal.SIGTERM) if flags[2] > 0 else 0

    def astray(self, values: Mapping[str, float]) -> str | None:
        """Why a step's terms are no longer those of a run that learns, or None."""
        return self._divergence.see(values)

    def state_dict(self) -> dict[str, Any]:
        """The running means of the terms."""
        return self._divergence.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Take them up."""
        self._divergence.load_state_dict(state)
