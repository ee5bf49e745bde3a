"""Names that come from outside: of models that a library may not know, of a pipeline's parts."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from ..errors import SourceError


def unknown_name(name: str, library: str, known: Iterable[str]) -> str:
    """One line that says a name is unknown and what comes close."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"{library} has no model {name!r}" + (f"; close are {', '.join(close)}" if close else "")


def check_part_name(name: object, where: Path) -> None:
    """See that a pipeline's part is a folder beside its index, and nowhere else.

    Raises:
        SourceError: the name would lead out of the folder.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
        raise SourceError(f"{where} names a part outside its folder: {name!r}")
