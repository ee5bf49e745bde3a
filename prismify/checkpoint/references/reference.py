"""Model references: how a person names an architecture.

diffusers:Class    timm:name    torchvision:name    prismify:Name    package.module:factory    file.py:factory
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import PrismifyError, SourceError
from ...families import FAMILIES, family
from ..imports import current_folder, import_own, python_file
from .empty import build_empty

#: Top-level modules that make no model.
_STANDARD = sys.stdlib_module_names
#: Arguments that ask a library for trained weights of its own; a saved model brings its own.
_PRETRAINED = ("pretrained", "weights", "weights_backbone", "checkpoint_path")


@dataclass(frozen=True)
class Reference:
    """An architecture by name: `target` within `prefix`, built with `arguments`."""

    prefix: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def runs_code(self) -> bool:
        """Whether building imports Python that is not one of the known libraries'."""
        return self.prefix not in FAMILIES

    @property
    def file(self) -> Path | None:
        """The Python file of a `file.py:factory` reference."""
        return Path(self.prefix) if self.prefix.endswith(".py") else None

    def check_makes_models(self) -> None:
        """See that it names none of Python's own modules, which make no model.

        Raises:
            SourceError: it does.
        """
        if self.prefix.partition(".")[0] in _STANDARD and self.file is None:
            raise SourceError(f"{self} names no model: {self.prefix} is a module of Python's own")

    def __str__(self) -> str:
        return f"{self.prefix}:{self.target}"

    def build(self, *, empty: bool = False) -> nn.Module:
        """The model with fresh weights, or without memory for them.

        Raises:
            SourceError: there is no such model, or its factory failed.
        """
        if self.file is not None:
            factory = _from_file(self.file, self.target)
        elif self.runs_code:
            self.check_makes_models()
            factory = _from_package(self.prefix, self.target)
        else:
            factory = _from_family(self.prefix, self.target)
        with factory as make:
            return build_empty(lambda: self._call(make)) if empty else self._call(make)

    def _call(self, make: Callable[..., Any]) -> nn.Module:
        try:
            model = make(**self.arguments)
        except PrismifyError:
            raise
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())[:300]
            raise SourceError(f"{self} failed: {type(error).__name__}: {text}") from error
        if not isinstance(model, nn.Module):
            raise SourceError(f"{self} returned a {type(model).__name__}, not an nn.Module")
        return model

    @property
    def pretrained(self) -> bool:
        """Whether it asks a library for trained weights of its own."""
        return any(self.arguments.get(key) for key in _PRETRAINED)

    def without_pretrained(self) -> Reference:
        """The same architecture, not asking for trained weights; a person's own arguments stay as they are."""
        if self.runs_code:
            asked = self.arguments.get("pretrained") is True
            return Reference(self.prefix, self.target, self.arguments | ({"pretrained": False} if asked else {}))
        return Reference(self.prefix, self.target, {k: v for k, v in self.arguments.items() if k not in _PRETRAINED})


def parse_reference(text: str, arguments: dict[str, Any] | None = None) -> Reference:
    """Read `prefix:target`.

    Raises:
        SourceError: the text is no reference.
    """
    prefix, colon, target = text.rpartition(":")
    if not colon or not prefix or not target:
        raise SourceError(
            f"{text!r} is neither a file nor a model reference; references are diffusers:Class, timm:name, "
            "torchvision:name, prismify:Name, package.module:factory and file.py:factory"
        )
    return Reference(prefix, target, dict(arguments or {}))


def own_function(text: str, what: str) -> Callable[..., Any]:
    """The function that `file.py:function` or `package.module:function` names.

    Args:
        what: what it is to be, for the message.

    Raises:
        SourceError: there is none, or it is of a library's that makes models, or of Python's own.
    """
    reference = parse_reference(text)
    is_pythons_own = reference.file is None and reference.prefix.partition(".")[0] in _STANDARD
    if not reference.runs_code or is_pythons_own:
        raise SourceError(f"{text} names no {what} of yours: name file.py:function or package.module:function")
    found: Any = import_own(reference.prefix)
    for part in reference.target.split("."):
        found = getattr(found, part, None)
    if not callable(found) or _is_pythons_own(found):
        raise SourceError(f"{text} names no {what}: {reference.prefix} has no function {reference.target!r}")
    return found  # type: ignore[no-any-return]


@contextmanager
def _from_package(module: str, name: str) -> Iterator[Callable[..., Any]]:
    with current_folder():
        try:
            found = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())[:300]
            raise SourceError(f"cannot import {module!r} for {module}:{name}: {text}") from error
        yield _attribute(found, module, name)


@contextmanager
def _from_file(path: Path, name: str) -> Iterator[Callable[..., Any]]:
    with python_file(path) as module:
        yield _attribute(module, str(path), name)


@contextmanager
def _from_family(prefix: str, name: str) -> Iterator[Callable[..., Any]]:
    yield lambda **arguments: family(prefix).build(name, arguments)


def _is_pythons_own(value: Any) -> bool:
    """Whether a function or class is of Python's own library, which a module merely imports (`os.system`)."""
    home = getattr(value, "__module__", None)
    return (inspect.isroutine(value) or inspect.isclass(value)) and str(home).partition(".")[0] in _STANDARD


def _attribute(module: Any, where: str, name: str) -> Callable[..., Any]:
    value = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if not callable(value) or _is_pythons_own(value):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise SourceError(f"{where} has no factory {name!r}; it has {', '.join(known[:8]) or 'none'}")
    return value  # type: ignore[no-any-return]
