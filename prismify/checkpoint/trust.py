"""What a person lets files do. Nothing that a file says makes a `Trust` or widens one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import SourceError
from .reference import Reference


@dataclass(frozen=True)
class Trust:
    """What the person at the command line, or the caller in Python, said may happen.

    Args:
        code: run the Python that files name as an architecture.
        allow: classes that a pickled file may hold.
        pickle: let a pickled file run any code it brings.
        named: references that the person wrote, and no file.
    """

    code: bool = False
    allow: tuple[str, ...] = ()
    pickle: bool = False
    named: frozenset[str] = frozenset()

    def check(self, reference: Reference, where: str) -> None:
        """See that a reference which a file holds may be followed.

        Args:
            where: the file, for the message.

        Raises:
            SourceError: it runs Python code, and the person did not say that it may.
        """
        if not reference.runs_code or self.code or str(reference) in self.named or _is_on_own_path(reference):
            return
        raise SourceError(
            f"{where} names {reference}, which runs Python code: add --trust-code (trust_code=True in Python) if you "
            "trust it"
        )


def _is_on_own_path(reference: Reference) -> bool:
    """Whether a Python file lies in a folder that the person put on PYTHONPATH: so one calls code one's own."""
    file = reference.file
    if file is None or not file.is_absolute():
        return False
    own = [Path(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return any(p.is_absolute() and file.resolve().parent == p.resolve() for p in own)
