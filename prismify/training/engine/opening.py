"""Opening a run: its folder, locked; its accelerator; and errors of memory and disk in one line."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from ...checkpoint import Trust
from ...errors import DataError, OutputError, PrismifyError, TrainingError
from ...generators import kept_generators, seed_generators
from ..models import NO_TRUST
from ..schema import Recipe
from .begin import make_accelerator
from .events import Watch
from .run import Run
from .state import states
from .written import LOCK_NAME, check_folder, check_own, open_record


@contextmanager
def open_run(recipe: Recipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Iterator[Run]:
    """A run in its folder; errors of memory and disk come out as one line.

    Args:
        restart: forget what the folder holds of an earlier run.
        trust: what the person lets the models do.

    Raises:
        TrainingError: there is no such device, memory ran out, or another process works in the folder.
        OutputError: the folder cannot be written.
    """
    accelerator = make_accelerator(recipe.train)
    run = Run(recipe, accelerator, watch, trust, restart=restart)
    error: BaseException | None = None
    try:
        with kept_generators(), _folder_locked(run) if run.leads else nullcontext():
            try:
                accelerator.wait_for_everyone()
                seed_generators(recipe.train.seed)  # of weights that are made for the run
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
def _folder_locked(run: Run) -> Iterator[None]:
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another output")
    _check_apart(run.recipe)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder)
        was_empty = not any(folder.iterdir())
        with _locked(folder):
            run.written = open_record(folder)
            check_own(run.written)
            try:
                yield
            except BaseException:
                if was_empty and run.step == 0:  # no step was made: what was noted for the run is of no use
                    with suppress(OSError):
                        run.written.forget()
                raise
    finally:
        for place in made:  # a start that failed leaves nothing
            with suppress(OSError):
                place.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, a file that is there only as long; nothing is written to it."""
    path = folder / LOCK_NAME
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OutputError(f"{path} is a link; remove it, or name another output") from error
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise TrainingError(f"{folder} is in use: another process works there") from error
        if path.exists() and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            break
        os.close(descriptor)  # its last holder has just removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _check_apart(recipe: Recipe) -> None:
    """See that a run writes into no folder that it reads from.

    Raises:
        OutputError: the output is, or holds, data or a model of the recipe's.
    """
    output = Path(recipe.output).resolve()
    teacher, lpips = getattr(recipe, "teacher", None), getattr(getattr(recipe, "loss", None), "lpips", None)
    autoencoder = getattr(recipe, "autoencoder", None)
    reads = {
        "data.path": recipe.data.path,
        "data.validation_path": recipe.data.validation_path,
        "model.source": recipe.model.source,
        "teacher.source": teacher and teacher.source,
        "autoencoder.source": autoencoder and autoencoder.source,
        "condition.encoder": getattr(getattr(recipe, "condition", None), "encoder", None),
        "loss.lpips.weights": lpips and lpips.weights,
    }
    for key, name in reads.items():
        if not name or ("{" not in name and not Path(name).exists()):  # a reference, or what is said to be missing
            continue
        place = Path(name).resolve()
        if place == output or output in place.parents:
            raise OutputError(f"output {output} holds {key} {place}: name a folder of its own")


def _let_go() -> None:
    """Let the next run of this process choose its device and precision anew."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state()
    GradientState._reset_state()
