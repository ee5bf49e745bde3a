"""YAML as plain data, bounded: no key twice, and every word known as it was written until its type is asked for."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import RecipeError
from ..validation import MOST_DEEP

#: Bytes in the largest YAML file that is read: a recipe takes a hundredth of it.
MOST_YAML = 1 << 20
#: Values in one, with those that aliases stand for.
MOST_VALUES = 50_000
#: What may mark text that is not UTF-8; the longer mark first.
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_NULLS = ("", "~", "null", "Null", "NULL")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_WHOLE = re.compile(r"([-+]?[0-9][0-9_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0b[01][01_]*)$")
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$")
_ENDLESS = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")
#: A longer row of digits is a word: no setting takes it.
_MOST_DIGITS = 100
_CORE = "tag:yaml.org,2002:"
_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}


@dataclass(frozen=True)
class Word:
    """What stands in a file without quotes: its text, and the number, boolean or null that it is where one is wanted.

    `no` is a boolean to YAML 1.1 and a word to YAML 1.2, and 1e-3 the other way round: the setting decides.
    """

    text: str
    value: Any


def read_text(file: Path) -> str:
    """A recipe's text.

    Raises:
        OSError: the file cannot be read.
        RecipeError: it is too large, or not UTF-8.
    """
    with file.open("rb") as stream:
        content = stream.read(MOST_YAML + 1)
    if len(content) > MOST_YAML:
        raise RecipeError(f"{file} is no recipe: it is larger than {MOST_YAML >> 20} MiB")
    mark = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    if mark is not None:
        raise RecipeError(f"{file} is no recipe: it is {mark}; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is no recipe: its byte {error.start} is not UTF-8; save it as UTF-8") from error


def read_yaml(text: str, where: str) -> Any:
    """Tables as dicts, rows as lists, quoted text as str, and everything else as `Word`.

    Raises:
        RecipeError: it is not YAML; is too deep or too large, aliases counted as what they stand for; gives a key
            twice; or says more than plain data.
    """
    reader = _Reader(where, {}, 0)
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(events), (start := next(events))  # the stream's beginning, and the document's
        if isinstance(start, yaml.StreamEndEvent):
            return Word("", None)
        found = reader.value(next(events), events, 1)
        next(events)
        if not isinstance(more := next(events), yaml.StreamEndEvent):
            raise reader.error(more, "a second document begins, and only one is read")
        return found
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, RecipeError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise RecipeError(f"{where}: not YAML{line}: {' '.join(str(problem).split())}") from error


@dataclass
class _Reader:
    """One document: what its anchors stand for with its depth, and how many values there are so far."""

    where: str
    anchors: dict[str, tuple[Any, int] | None]
    count: int

    def error(self, event: Any, text: str) -> RecipeError:
        return RecipeError(f"{self.where}: line {_line(event)}: {text}")

    def value(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        """What begins with an event, and takes its events up."""
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, depth)
        self._counted(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event)
        else:
            if depth > MOST_DEEP:
                raise self.error(event, f"it is nested more than {MOST_DEEP} deep")
            if event.anchor is not None:
                self.anchors[event.anchor] = None  # open: it cannot hold itself
            is_table = isinstance(event, yaml.MappingStartEvent)
            self._check_tag(event, "map" if is_table else "seq")
            found = self._table(events, depth) if is_table else self._row(events, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (found, _height(found))
        return found

    def _counted(self, event: Any, more: int) -> None:
        self.count += more
        if self.count > MOST_VALUES:
            raise self.error(event, f"it holds more than {MOST_VALUES:,} values, with those that aliases stand for")

    def _aliased(self, event: Any, depth: int) -> Any:
        if event.anchor not in self.anchors:
            raise self.error(event, f"*{event.anchor} is an alias of nothing; put words that begin with * in quotes")
        known = self.anchors[event.anchor]
        if known is None:
            raise self.error(event, f"*{event.anchor} stands for what holds it")
        found, height = known
        if depth + height - 1 > MOST_DEEP:
            raise self.error(event, f"it is nested more than {MOST_DEEP} deep")
        self._counted(event, _size(found))
        return _copied(found)

    def _row(self, events: Iterator[Any], depth: int) -> list[Any]:
        row = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            row.append(self.value(event, events, depth + 1))
        return row

    def _table(self, events: Iterator[Any], depth: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: list[dict[str, Any]] = []
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.error(event, "a key must be a word")
            key = event.value
            if key in lines:
                raise self.error(event, f"{key[:80]!r} is given twice, first in line {lines[key]}")
            lines[key] = _line(event)
            value = self.value(next(events), events, depth + 1)
            if key == "<<" and event.style is None:
                merged += value if isinstance(value, list) else [value]
                if not all(isinstance(other, dict) for other in merged):
                    raise self.error(event, "<< takes in tables, and this is none")
            else:
                table[key] = value
        for other in merged:  # what is said here counts, then what was taken in first
            table = {**other, **table}
        return table

    def _scalar(self, event: Any) -> Any:
        if "\0" in event.value:
            raise self.error(event, "a text holds a zero byte, which no name can")
        if event.tag in ("!", f"{_CORE}str") or (event.tag is None and event.style is not None):
            return event.value
        word = Word(event.value, _meant(event.value))
        if event.tag is None:
            return word
        kind = _KINDS.get(event.tag.removeprefix(_CORE))
        if kind is None or (type(word.value) is not kind and (kind, type(word.value)) != (float, int)):
            raise self.error(event, f"{event.tag.replace(_CORE, '!!')} {event.value[:40]!r} is no plain data")
        return word

    def _check_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", _CORE + kind):
            raise self.error(event, f"{event.tag.replace(_CORE, '!!')} is no plain data")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _meant(text: str) -> Any:
    """The null, boolean or number that a word may stand for; else the word."""
    if text in _NULLS:
        return None
    for value, words in ((True, _TRUE), (False, _FALSE)):
        if any(text in (word, word.capitalize(), word.upper()) for word in words):
            return value
    if len(text) <= _MOST_DIGITS:
        if _WHOLE.fullmatch(text):
            base = {"0x": 16, "0o": 8, "0b": 2}.get(text[:2], 10)
            return int(text.replace("_", ""), base)
        if _NUMBER.fullmatch(text):
            return float(text.replace("_", ""))
        if _ENDLESS.fullmatch(text):
            return float(text.lower().replace(".", "", 1))
    return text


def meant(data: Any) -> Any:
    """Data with every word as the null, boolean or number that it may be."""
    return as_declared(data, Any)


def as_declared(data: Any, hint: Any) -> Any:
    """Data with every word as its type asks for; what fits no type stays as it is, to be told by who builds from it.

    Args:
        hint: a type as a dataclass declares it, or a dataclass.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if isinstance(data, Word) and data.value is None:
            return None
        return as_declared(data, next(a for a in arguments if a is not type(None)))
    if isinstance(data, Word):
        words = hint is str or (origin is Literal and isinstance(arguments[0], str))
        if words and data.value is not None:
            return data.text
        is_whole = hint is int and isinstance(data.value, float) and math.isfinite(data.value)
        return int(data.value) if is_whole and data.value.is_integer() else data.value
    if isinstance(data, list):
        several = origin is tuple and len(arguments) == len(data) and arguments[-1] is not Ellipsis
        kinds = arguments if several else [arguments[0] if origin is tuple else Any] * len(data)
        return [as_declared(item, kind) for item, kind in zip(data, kinds, strict=True)]
    if isinstance(data, dict):
        hints = get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        other = arguments[1] if origin is dict else Any
        return {key: as_declared(value, hints.get(key, other)) for key, value in data.items()}
    return data


def _height(data: Any) -> int:
    """How many tables and rows lie in one another."""
    within = data.values() if isinstance(data, dict) else data if isinstance(data, list) else None
    return 0 if within is None else 1 + max(map(_height, within), default=0)


def _size(data: Any) -> int:
    within = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return 1 + sum(map(_size, within))


def _copied(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copied(value) for key, value in data.items()}
    return [_copied(item) for item in data] if isinstance(data, list) else data


class _Dumper(yaml.SafeDumper):
    """Quotes what another reader, of YAML 1.1 or 1.2, would take for no text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(f"{_CORE}float", _NUMBER, list("-+.0123456789"))
_Dumper.add_implicit_resolver(f"{_CORE}int", _WHOLE, list("-+0123456789"))


def yaml_text(data: dict[str, Any]) -> str:
    """Plain data as YAML that `read_yaml` reads back as it was."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100)
