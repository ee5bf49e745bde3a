"""Write a whole folder or nothing. What a killed process left half written is cleared by the next one."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: drafts stay until a person removes them
    fcntl = None  # type: ignore[assignment]

from ..errors import OutputError, PrismifyError
from .manifest import MANIFEST_NAME, not_listed


def check_output(folder: Path, *, force: bool, source: Path | None = None) -> None:
    """See that `folder` may be written, before hours are spent on what goes in; drafts of it are cleared.

    Args:
        source: what is read meanwhile; replacing a folder must not take it away.

    Raises:
        OutputError: it exists and `force` is off; or it is not one that prismify wrote, or holds more than
            that; or its parent cannot be written.
    """
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link; name the folder itself")
    if folder.absolute().parent.is_dir():
        with suppress(OSError):
            clear_drafts(folder.absolute().parent, folder.name)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another output")
    if folder.is_dir():
        if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise OutputError(f"{folder} is where you stand; name a new folder")
        if any(folder.iterdir()):
            _check_replaceable(folder, force, source)
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir():
        raise OutputError(f"{folder} cannot be written: {parent} is not a folder")
    probe = _beside(parent / folder.name, "draft")
    try:  # asking for permission is not enough: read-only mounts and /proc answer yes
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror} in {parent}") from error


def _check_replaceable(folder: Path, force: bool, source: Path | None) -> None:
    if not (folder / MANIFEST_NAME).is_file():
        raise OutputError(f"{folder} exists and was not written by prismify; choose another output")
    if not force:
        raise OutputError(f"{folder} exists; add --force to replace it")
    if source is not None and source.exists() and folder.resolve() in source.resolve().parents:
        raise OutputError(f"{folder} holds the source {source}; choose another output")
    try:
        extra = not_listed(folder)
    except PrismifyError as error:
        place = folder / MANIFEST_NAME
        raise OutputError(f"{place} is damaged; choose another output, or remove the folder yourself") from error
    if extra:
        raise OutputError(
            f"{folder} holds {extra[0]}, which is no part of the model; move it, or choose another output"
        )


@contextmanager
def whole_folder(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """A fresh folder to fill, which takes `folder`'s place when the block ends, or vanishes when it fails.

    Raises:
        OutputError: see `check_output`; or the disk did not take what was written.
    """
    check_output(folder, force=force)
    folder = folder.absolute()
    made: list[Path] = []
    draft = _beside(folder, "draft")
    try:
        for parent in reversed([p for p in folder.parents if not p.exists()]):
            made.append(parent)
            parent.mkdir()
        draft.mkdir()
        with _held(draft):
            yield draft
            _sync(draft)
            _put_in_place(draft, folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):  # not empty: something else came to live there
                parent.rmdir()
        if isinstance(error, OSError) and not isinstance(error, PrismifyError):
            raise OutputError(f"{folder} could not be written: {_reason(error)}; nothing was left") from error
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes `path`'s place when the block ends, or vanishes when it fails.

    Raises:
        OutputError: the disk did not take it.
    """
    draft = _beside(path.absolute(), "draft")
    try:
        yield draft
        draft.replace(path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError) and not isinstance(error, PrismifyError):
            raise OutputError(f"{path} could not be written: {_reason(error)}; nothing was left") from error
        raise


#: What is half written, or about to be replaced, is called so and nothing else is.
_DRAFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.prismify-(?P<kind>draft|old)")
_NAME_LENGTH = 80


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name[:_NAME_LENGTH]}.{secrets.token_hex(8)}.prismify-{kind}"


def clear_drafts(folder: Path, name: str | None = None) -> None:
    """Remove from a folder what a process that was killed had not finished writing.

    A draft that somebody still writes is locked, and stays. A folder that was moved aside and not yet replaced comes
    back.

    Args:
        name: only drafts of this file or folder.
    """
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        match = _DRAFT.fullmatch(entry.name)
        if match is None or entry.is_symlink() or (name is not None and match["name"] != name[:_NAME_LENGTH]):
            continue
        path = Path(entry.path)
        target = folder / (name or match["name"])
        if match["kind"] == "old" and not target.exists():
            if len(match["name"]) < _NAME_LENGTH or name is not None:  # else its name was cut off
                path.rename(target)
        elif entry.is_dir() and _is_left(path):
            shutil.rmtree(path, ignore_errors=True)
        elif entry.is_file() and name is None:  # the caller holds the folder: nobody else writes files in it
            path.unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which goes with the process however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_left(folder: Path) -> bool:
    """Whether nobody holds a folder any more."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _put_in_place(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    old = _beside(folder, "old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring the files to the disk, so that a full disk is noticed before the folder takes its place."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    """Why writing failed, in a few words; copying a tree collects a list of (from, to, why)."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return error.strerror or str(error)
