"""Messages about names that a library does not know."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(name: str, library: str, known: Iterable[str]) -> str:
    """One line that says a name is unknown and what comes close."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"{library} has no model {name!r}" + (f"; close are {', '.join(close)}" if close else "")
