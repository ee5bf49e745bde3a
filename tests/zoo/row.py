"""What the zoo knows about one architecture: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Roles:
    """The role of every layer of a row's small model, written down by hand from the paper or the code.

    Args:
        input, output: qualified names.
        cond: patterns over qualified names, as time and text embeddings repeat in every block.
        dead: patterns of layers whose result reaches no output.

    What is named nowhere is inner.
    """

    input: frozenset[str]
    output: frozenset[str]
    cond: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()


def roles(input: str, output: str, cond: str = "", dead: str = "") -> Roles:
    """`Roles` from names separated by blanks."""
    return Roles(frozenset(input.split()), frozenset(output.split()), tuple(cond.split()), tuple(dead.split()))


@dataclass(frozen=True)
class Row:
    """One architecture.

    Args:
        name: as people call it.
        source: a model reference, as on the command line.
        small: its arguments for a model that runs in a test; None where it comes in one size only, too large for that.
        full: its arguments at the published size, which is scanned on `meta`; None where there is none.
        inputs: shapes of the arguments that are not to be guessed, for the small model.
        full_inputs: the same for the full-size one.
        roles: by hand, for some.
        red: step -> why it fails, where that is known and nobody's mistake.
    """

    name: str
    source: str
    small: dict[str, Any] | None
    full: dict[str, Any] | None = None
    inputs: dict[str, tuple[Any, ...]] | None = None
    full_inputs: dict[str, tuple[Any, ...]] | None = None
    roles: Roles | None = None
    red: dict[str, str] = field(default_factory=dict)
