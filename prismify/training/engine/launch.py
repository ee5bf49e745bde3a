"""Start the same command in several processes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ...errors import TrainingError
from .stopping import handled_signals

_GRACE_SECONDS = 10.0
#: For the others, once the first process ended after a signal: long enough to write a large state.
_WRITING_SECONDS = 600.0


def is_launched() -> bool:
    """Whether this process is one of several already: started by us, torchrun or `accelerate launch`."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(command: Sequence[str], processes: int) -> int:
    """Run `command` as processes 0 to N-1 of a group; returns the exit code.

    What process 0 prints is shown; what another one printed only where that one failed first. When one fails the
    others are ended. A signal that ends programs goes to all of them, which write their state after the step they are
    in; the second one has them stop at once, and the third kills them.

    Raises:
        TrainingError: a process failed without a word of its own.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))
    started: list[subprocess.Popen[Any]] = []
    told: list[int] = []

    def tell(number: int, frame: object) -> None:
        told.append(number)
        for process in started:
            if process.poll() is None:
                process.send_signal(number if len(told) < 3 else signal.SIGKILL)

    with ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(processes - 1)]
        stack.enter_context(handled_signals(tell))
        stack.enter_context(_paused_together(started))
        try:
            for rank in range(processes):
                environment = {
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "LOCAL_WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": threads,
                }
                output = None if rank == 0 else errors[rank - 1]
                # In sessions of their own: what is typed at the terminal reaches them once, through this process.
                started.append(
                    subprocess.Popen(
                        list(command), env=environment, stdout=output, stderr=output, start_new_session=True
                    )
                )
            code, rank = _first_failure(started, told)
        finally:
            _end(started)
        if code and rank:
            errors[rank - 1].seek(0)
            said = [line for line in errors[rank - 1].read().splitlines() if line.strip()]
            if not said:
                raise TrainingError(f"process {rank} of {processes} ended with code {code}")
            print(said[-1], file=sys.stderr)
        return code


@contextmanager
def _paused_together(started: list[subprocess.Popen[Any]]) -> Iterator[None]:
    """Ctrl-Z stops the processes as well, and what wakes this one wakes them."""
    if not hasattr(signal, "SIGTSTP") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def pause(number: int, frame: object) -> None:
        for process in started:
            process.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for process in started:
            process.send_signal(signal.SIGCONT)

    before = signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


def _first_failure(started: list[subprocess.Popen[Any]], told: list[int]) -> tuple[int, int]:
    """Wait for all to end well, or one not: its code and its rank.

    Args:
        told: signals that were passed on: from then on, all are waited for.
    """
    limit = None
    while True:
        codes = [process.poll() for process in started]
        if told and any(code is not None for code in codes):
            limit = limit or time.monotonic() + _WRITING_SECONDS
            if None in codes and time.monotonic() < limit:
                time.sleep(0.05)
                continue
        for rank, code in enumerate(codes):
            if code:
                # Process 0 speaks for all: where it is about to fail of the same cause, its line is the one shown.
                return (code, rank) if rank == 0 else _after_grace(started, code, rank)
        if all(code == 0 for code in codes):
            return 0, 0
        time.sleep(0.05)


def _after_grace(started: list[subprocess.Popen[Any]], code: int, rank: int) -> tuple[int, int]:
    for _ in range(40):
        if started[0].poll():
            return int(started[0].returncode), 0
        time.sleep(0.05)
    return code, rank


def _end(started: list[subprocess.Popen[Any]]) -> None:
    for process in started:
        if process.poll() is None:
            process.terminate()
    limit = time.monotonic() + _GRACE_SECONDS
    for process in started:
        try:
            process.wait(max(0.1, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
