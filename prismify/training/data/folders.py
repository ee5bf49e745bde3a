"""Which files of a folder or a tar are images that a person means, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from ...errors import DataError
from .decoding import how_to_read, suffixes

#: Folders that systems and their file managers make: thumbnails, trash, what an archiver left.
_NOT_MEANT = frozenset({
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "system volume information", "lost+found",
    "thumbnails", "thumbs",
})  # fmt: skip
_ARCHIVES = (".tar", ".tgz", ".gz", ".xz", ".bz2", ".zip", ".npz", ".7z", ".rar")
_HIDDEN_FILE, _HIDDEN_FOLDER = "hidden files", "folders that are hidden or hold thumbnails or trash"
_SEEN, _LOST, _CLOSED = "links to folders that are read already", "files that cannot be opened", "folders not readable"
_MOST_KINDS = 6


def is_left_out(name: str) -> bool:
    """Whether a folder or file of this name is hidden, or one that no person made."""
    return name.startswith(".") or name.lower() in _NOT_MEANT


def image_or_kind(name: str) -> str | None:
    """None for the name of an image; else the kind of what is passed over.

    Args:
        name: a path inside a folder or an archive, with "/".
    """
    path = PurePosixPath(name)
    if any(is_left_out(part) for part in path.parts[:-1]):
        return _HIDDEN_FOLDER
    if path.name.startswith("."):
        return _HIDDEN_FILE
    suffix = path.suffix.lower()
    return None if suffix in suffixes() else suffix or "files without a suffix"


def list_images(root: Path) -> tuple[list[str], dict[str, int]]:
    """The images below a folder, sorted, and how many files of each kind are passed over.

    Links are followed, each folder is read once, and its own place goes before a link to it; a link that points back
    up ends there.

    Raises:
        DataError: the folder cannot be read.
    """
    names: list[str] = []
    passed: Counter[str] = Counter()
    seen = {_identity(folder) for folder in root.resolve().parents}
    waiting, links = [root], list[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            is_new = (identity := _identity(folder)) not in seen
            entries = list(os.scandir(folder)) if is_new else []
        except OSError as error:
            if folder == root:
                raise DataError(f"{root} cannot be read ({error.strerror})") from error
            passed[_CLOSED] += 1
            continue
        passed[_SEEN] += not is_new
        seen.add(identity)
        for entry in entries:
            path = folder / entry.name
            if _is(entry.is_dir):
                if is_left_out(entry.name):
                    passed[_HIDDEN_FOLDER] += 1
                elif not entry.is_symlink():
                    waiting.append(path)
                elif path.resolve() in folder.resolve().parents:
                    passed[_SEEN] += 1
                else:
                    links.append(path)
                continue
            kind = image_or_kind(entry.name)
            if kind is None and _is(entry.is_file):
                names.append(str(path.relative_to(root)))
            else:
                passed[kind or _LOST] += 1
    names.sort()
    return names, _counted(passed)


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself, or through a folder that is closed
        return False


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _counted(passed: Mapping[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in sorted(passed.items(), key=lambda item: (-item[1], item[0])) if count}


def passed_over_text(passed: Mapping[str, int]) -> str:
    """What was passed over, in words: "3 .txt, 1 .heic (to read: pip install pillow-heif)"."""
    # What can be mended is said first.
    kinds = sorted(passed, key=lambda kind: how_to_read(kind) is None and kind not in _ARCHIVES)
    said = [f"{passed[kind]:,} {kind}{_advice(kind)}" for kind in kinds[:_MOST_KINDS]]
    more = sum(passed[kind] for kind in kinds[_MOST_KINDS:])
    return ", ".join([*said, *([f"{more:,} others"] if more else [])])


def _advice(kind: str) -> str:
    advice = "to read an archive, name it itself" if kind in _ARCHIVES else how_to_read(kind)
    return f" ({advice})" if advice else ""
