"""What a person lets files do. Nothing that a file says makes a `Trust` or widens one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import SourceError
from .reference import Reference

#: Arguments by which a library's factory reads a file, or writes one, wherever whoever gives them likes.
_REACHING = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


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
            SourceError: it runs Python code or reaches for other files, and the person did not say that it may; or
                what it names makes no model, whoever says so.
        """
        reference.check_makes_models()
        if self.code:
            return
        if reference.runs_code and str(reference) not in self.named and not _is_on_own_path(reference):
            what = f"names {reference}, which runs Python code"
        elif not reference.runs_code and (reaching := [name for name in _REACHING if reference.arguments.get(name)]):
            what = f"gives {reference} the argument {reaching[0]!r}, which reaches for other files"
        else:
            return
        raise SourceError(f"{where} {what}: add --trust-code (code=True of Trust in Python) if you trust it")


def _is_on_own_path(reference: Reference) -> bool:
    """Whether a Python file lies in a folder that the person put on PYTHONPATH: so one calls code one's own."""
    file = reference.file
    if file is None or not file.is_absolute():
        return False
    own = [Path(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return any(p.is_absolute() and file.resolve().parent == p.resolve() for p in own)
