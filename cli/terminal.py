"""How subcommands talk: results on stdout, progress and errors on stderr, one line an error."""

from __future__ import annotations

import codecs
import functools
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])
Begin = Callable[[str], None]
#: What is printed where the terminal cannot show the first.
_ALIKE = {"×": "x", "→": "->", "±": "+-", "…": "...", "─": "-", "━": "-", "╸": "-", "╺": "-", "’": "'", "λ": "lambda"}


def one_line_errors(command: F) -> F:
    """Turn errors into one line on stderr and exit code 1; PRISMIFY_DEBUG=1 shows the traceback instead."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from ..errors import PrismifyError

        if os.environ.get("PRISMIFY_DEBUG"):
            return command(*args, **kwargs)
        try:
            return command(*args, **kwargs)
        except PrismifyError as error:
            fail(str(error))
        except BrokenPipeError:  # the reader of a pipe has seen enough: click ends quietly
            raise
        except OSError as error:
            fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            if isinstance(error, MemoryError) or "allocate memory" in text:
                fail("not enough memory for this model on this machine")
            if "Connection closed by peer" in text or "Connection reset by peer" in text:
                fail("another process of this run ended; the same command goes on from the last state that was written")
            fail(f"{type(error).__name__}: {text} (unexpected; PRISMIFY_DEBUG=1 shows where)")

    return wrapped  # type: ignore[return-value]


def fail(message: str) -> None:
    """Print one line on stderr and leave with exit code 1."""
    print(f"prismify: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(1)


def prose(*, stderr: bool = False) -> Console:
    """Where sentences go: a terminal breaks them between words; a file keeps every line whole."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, emoji=False)  # a path may read like the name of one
    console.soft_wrap = not console.is_terminal
    return console


def show_anything() -> None:
    """Let what a terminal's encoding lacks come out as something like it, and names that are no text as they are."""
    codecs.register_error("prismify.alike", _alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="prismify.alike")


def _alike(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start]
    if "\udc80" <= found <= "\udcff":  # a byte of a file's name
        return bytes([ord(found) - 0xDC00]), error.start + 1
    return _ALIKE.get(found, found.encode("ascii", "backslashreplace").decode()), error.start + 1


@contextmanager
def steps() -> Iterator[Begin]:
    """A bar that runs while something is done, on stderr; what libraries print meanwhile goes there as well.

    Yields the function that names what is done next.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with _stdout_to_stderr(), _ended_by_signal(), quiet_libraries():
        console = Console(stderr=True)
        columns = (BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        hidden = not console.is_terminal or os.environ.get("RANK", "0") != "0"  # one of several processes shows it
        with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
            task = progress.add_task("starting", total=None)
            yield lambda name: progress.update(task, description=name)


@contextmanager
def loading() -> Iterator[None]:
    """The bar while libraries are imported, which takes seconds."""
    with steps() as begin:
        begin("loading libraries")
        yield


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep stdout for the result: prints of libraries, and of programs that they start, go to stderr."""
    if sys.stdout is None:  # closed by whoever started this: nobody reads what would be kept
        with redirect_stdout(sys.stderr):
            yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No warnings of libraries about their own affairs, unless PRISMIFY_DEBUG asks for them."""
    if os.environ.get("PRISMIFY_DEBUG"):
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let SIGTERM, as of a batch system, clean up what was begun."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
