"""Build dataclasses from plain data: every field known, present and of its declared type."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import PlanError

#: How deep a JSON file may nest: a manifest nests less than ten deep.
MOST_DEEP = 100
#: Bytes in the largest JSON file that is read: an index of 100,000 tensors takes a tenth of it.
MOST_JSON = 64 << 20

#: How much of a value an error shows.
_MOST_SHOWN = 80

T = TypeVar("T")


def shown(value: Any) -> str:
    """A value as an error shows it: what Python would print, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def build(cls: type[T], data: Any, where: str) -> T:
    """The dataclass `cls` from a JSON object; lists become tuples where the field says so.

    Raises:
        PlanError: a field is unknown, missing or of another type; the message begins with `where`.

    Example:
        >>> from prismify.layers import Operator
        >>> build(Operator, {"type": "Prism", "volumes": [1, 3]}, "operator").volumes
        (1, 3)
    """
    if not isinstance(data, dict):
        raise PlanError(f"{where} is missing or not an object")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for name in data:
        if name not in fields:
            raise PlanError(f"{where}: unknown field {shown(name)}; known are {', '.join(sorted(fields))}")
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise PlanError(f"{where}: field {missing[0]!r} is missing")
    try:
        return cls(**{name: fit(value, hints[name], f"{where}: {name}") for name, value in data.items()})
    except ValueError as error:
        if isinstance(error, PlanError):
            raise
        text = str(error).removeprefix(f"{where.rpartition(': ')[2]}: ")  # some name their section themselves
        raise PlanError(f"{where}: {text}") from error


def fit(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, or PlanError; only what JSON can hold is known."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return fit(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        # `1 == True`, so membership alone would let a boolean through for a number.
        if not any(value == known and type(value) is type(known) for known in arguments):
            raise PlanError(f"{where} {shown(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise PlanError(f"{where} {shown(value)} is not a list")
        if arguments[-1] is Ellipsis:
            return tuple(fit(item, arguments[0], where) for item in value)
        if len(value) != len(arguments):
            raise PlanError(f"{where} {shown(value)} does not have {len(arguments)} items")
        return tuple(fit(item, kind, where) for item, kind in zip(value, arguments, strict=True))
    if origin is dict:
        if isinstance(value, dict) and arguments:
            return {name: fit(item, arguments[1], f"{where}: {name}") for name, item in value.items()}
        hint = dict
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, where)
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if type(value) is not hint:
        raise PlanError(f"{where} {shown(value)} is not of type {hint.__name__}")
    return value


def read_json_file(path: Path) -> Any:
    """What a JSON file holds, its size and depth bounded.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large or too deep, or not JSON.
    """
    with path.open("rb") as file:
        content = file.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise ValueError(f"it is larger than {MOST_JSON >> 20} MiB")
    try:
        found = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [found]
    for _ in range(MOST_DEEP):
        level = [value for item in level if isinstance(item, (dict, list)) for value in _within(item)]
        if not level:
            return found
    raise ValueError(f"it is nested more than {MOST_DEEP} deep")


def _within(item: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def plain_number(value: Any) -> Any:
    """A number of numpy's or a 0-dimensional tensor as Python's own, for JSON.

    Raises:
        TypeError: it is something else.
    """
    item = getattr(value, "item", None)
    if not callable(item) or getattr(value, "shape", None) != ():
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return item()


def finite(content: Any) -> Any:
    """Plain data with null for what is not a finite number, which JSON cannot hold and other readers refuse."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
