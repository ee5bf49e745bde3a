"""Numbers that a setting may be: what cannot train, or harms in silence, is told before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RecipeError

#: Above it, sizes and counts are slips of the pen that overflow somewhere.
MOST = 2**31 - 1
_RANGES: dict[str, Callable[[float], bool]] = {
    "a positive number": lambda v: 0 < v < math.inf,
    "0 or a positive number": lambda v: 0 <= v < math.inf,
    "a number above 1": lambda v: 1 < v < math.inf,
    "a number from 0 to 1": lambda v: 0 <= v <= 1,
    "0 or a number below 1": lambda v: 0 <= v < 1,
    "a number within a thousand million": lambda v: abs(v) <= 1e9,
}


def whole(where: str, section: object, most: int = MOST, /, **least: int) -> None:
    """See that whole numbers lie between their least value and `most`; None is left to others.

    Raises:
        RecipeError: one does not; the message names it.
    """
    for name, bound in least.items():
        value = getattr(section, name)
        if value is not None and not bound <= value <= most:
            limit = f"at least {bound}" if value < bound else f"at most {most}"
            raise RecipeError(f"{where}: {name} {_text(value)} must be {limit}")


def numbers(where: str, section: object, kind: str, *names: str, hint: str = "") -> None:
    """See that numbers, or all numbers of a pair, are of a kind; None is left to others.

    Args:
        kind: a key of the ranges above, in words.
        hint: what to write instead, for the message.

    Raises:
        RecipeError: one is not; the message names it.
    """
    for name in names:
        value = getattr(section, name)
        several = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(map(_RANGES[kind], several)):
            each = "each be" if isinstance(value, tuple) else "be"
            raise RecipeError(f"{where}: {name} {_text(value)} must {each} {kind}{hint}")


def factors(operators: Mapping[str, float]) -> None:
    """See that the factors on the learning rate of single operators are 0 or more.

    Raises:
        RecipeError: one is not; the message names it.
    """
    for name, factor in operators.items():
        if not _RANGES["0 or a positive number"](factor):
            raise RecipeError(f"rates: operators: {name} {_text(factor)} must be 0 or a positive number")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]
