"""The signals that end a program, noted instead of obeyed at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A terminal that closes sends SIGHUP, which not every system knows and `nohup` has ignored.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


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
