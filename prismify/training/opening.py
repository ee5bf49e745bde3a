"""Opening a run: its folder, locked; its accelerator; and errors of memory and disk in one line."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from ..errors import DataError, OutputError, PrismifyError, TrainingError
from .begin import forget, make_accelerator
from .run import Run, Watch
from .schema import Recipe
from .state import states, sweep


@contextmanager
def open_run(recipe: Recipe, watch: Watch, *, restart: bool = False) -> Iterator[Run]:
    """A run in its folder; errors of memory and disk come out as one line.

    Args:
        restart: forget what the folder holds of an earlier run.

    Raises:
        TrainingError: there is no such device, memory ran out, or another process works in the folder.
        OutputError: the folder cannot be written.
    """
    accelerator = make_accelerator(recipe.train)
    run = Run(recipe, accelerator, watch)
    error: BaseException | None = None
    try:
        with _folder_locked(run, restart) if run.leads else nullcontext():
            try:
                accelerator.wait_for_everyone()
                torch.manual_seed(recipe.train.seed)  # of weights that are made for the run
                yield run
            except BaseException as caught:
                error = caught
                raise
            finally:
                run.close(error)
    except Exception as caught:
        raise _in_one_line(caught, run) from caught
    finally:
        _let_go()


def _in_one_line(error: Exception, run: Run) -> Exception:
    """Memory and disk say what happened in words of their own."""
    kept = states(run.folder / "state")
    where = f"the state of step {kept[-1]} is kept in {run.folder}" if kept else "no state was written yet"
    text = " ".join(str(error).split())
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text
    if out_of_memory:
        shares = run.shares
        return TrainingError(
            f"out of memory with {shares.size} images at a time: raise train.accumulation (now {shares.parts}), which "
            f"gives the same results, or lower train.batch_size (now {shares.batch_size}); {where}"
        )
    if isinstance(error, DataError):
        return DataError(f"{error}; {where}" if kept else str(error))
    if isinstance(error, OSError):
        reason = str(error) if isinstance(error, PrismifyError) else f"{run.folder}: {error.strerror or error}"
        return OutputError(f"{reason}; {where}")
    return error


@contextmanager
def _folder_locked(run: Run, restart: bool) -> Iterator[None]:
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another output")
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(f"{folder} is in use: another process trains there") from error
        sweep(folder)
        if restart:
            forget(folder)
        yield


def _let_go() -> None:
    """Let the next run of this process choose its device and precision anew."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state()
    GradientState._reset_state()
