"""Archives of torch's: seen to unpack to no more than they are, and read by the reader that torch uses."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import SourceError

#: How much more than its size an archive may unpack to; torch stores without compressing.
MOST_UNPACKED = 32
UNPACKED_SLACK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """The records of an archive with their sizes in bytes, and what reads one."""

    sizes: dict[str, int]
    read: Callable[[str], bytes]


def check_archive(path: Path) -> dict[str, int]:
    """See that an archive does not unpack to a multiple of its size, nor hold a name twice; returns its records' sizes.

    Raises:
        SourceError: it does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is damaged: not a whole archive ({error})") from error
    unpacked, size = sum(info.file_size for info in infos), path.stat().st_size
    if unpacked > MOST_UNPACKED * size + UNPACKED_SLACK:
        raise SourceError(f"{path} is {size:,} bytes and would unpack to {unpacked:,}: it is damaged, or a zip bomb")
    # Torch's reader compares names without regard to case and takes the first.
    names = [info.filename.lower() for info in infos]
    if len(set(names)) < len(names):
        raise SourceError(f"{path} is damaged: it holds {next(n for n in names if names.count(n) > 1)!r} twice")
    return {info.filename.partition("/")[2]: info.file_size for info in infos}


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, damaged or whole: Python's own question fails on some that are damaged."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def check_unpacked(path: Path) -> None:
    """`check_archive` of a file that may as well be no archive.

    Raises:
        SourceError: it is one, and would unpack to a multiple of its size.
    """
    if path.is_file() and is_archive(path):
        check_archive(path)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An archive as torch's own reader sees it, so that what is checked is what is loaded.

    Raises:
        SourceError: it is damaged.
    """
    sizes = check_archive(path)
    try:
        with path.open("rb") as file:
            reader = torch._C.PyTorchFileReader(file)
            if {str(name) for name in reader.get_all_records()} != set(sizes):
                raise SourceError(f"{path} is damaged: its directory lists other records than it holds")
            yield Archive(sizes, lambda name: bytes(reader.get_record(name)))
    except RuntimeError as error:
        raise SourceError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
