"""Write a whole folder or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from .manifest import MANIFEST_NAME


def check_output(folder: Path, *, force: bool) -> None:
    """See that `folder` may be written, before hours are spent on what goes in.

    Raises:
        OutputError: it exists and `force` is off, or it is not one that prismify wrote, or its parent
            cannot be written.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is not a folder; choose another output")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MANIFEST_NAME).is_file():
            raise OutputError(f"{folder} exists and was not written by prismify; choose another output")
        if not force:
            raise OutputError(f"{folder} exists; add --force to replace it")
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written: no permission to write in {parent}")


@contextmanager
def whole_folder(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """A fresh folder to fill, which takes `folder`'s place when the block ends, or vanishes when it fails.

    Raises:
        OutputError: see `check_output`; or the disk did not take what was written.
    """
    folder = Path(folder)
    check_output(folder, force=force)
    made: list[Path] = []
    draft: Path | None = None
    try:
        for parent in reversed([p for p in folder.absolute().parents if not p.exists()]):
            parent.mkdir()
            made.append(parent)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
        draft.chmod(0o755)
        yield draft
        _sync(draft)
        _put_in_place(draft, folder)
    except BaseException as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        for parent in reversed(made):
            if not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise OutputError(f"{folder} could not be written: {error.strerror or error}; nothing was left") from error
        raise


def _put_in_place(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.absolute().parent))
    folder.rename(old / "content")
    try:
        draft.rename(folder)
    except OSError:
        (old / "content").rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring the files to the disk, so that a full disk is noticed before the folder takes its place."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
