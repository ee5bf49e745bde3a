"""How subcommands talk: results on stdout, progress and errors on stderr, one line an error."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

import typer

F = TypeVar("F", bound=Callable[..., Any])


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
        except MemoryError:
            fail("not enough memory for this model on this machine")
        except OSError as error:
            fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
        except (typer.Exit, typer.Abort, typer.BadParameter, KeyboardInterrupt):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            fail(f"{type(error).__name__}: {text} (unexpected; PRISMIFY_DEBUG=1 shows where)")

    return wrapped  # type: ignore[return-value]


def fail(message: str) -> None:
    """Print one line on stderr and leave with exit code 1."""
    print(f"prismify: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(1)


@contextmanager
def steps(total: int, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A progress bar over named steps, on stderr; what libraries print meanwhile goes to stderr as well.

    Yields the function that begins the next step.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn())
    hidden = quiet or not console.is_terminal
    with redirect_stdout(sys.stderr), Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=total)
        begun = False

        def begin(name: str) -> None:
            nonlocal begun
            progress.update(task, description=name, advance=1 if begun else 0)
            begun = True

        yield begin
