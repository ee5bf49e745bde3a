"""Model references: how a person names an architecture.

diffusers:Class    timm:name    torchvision:name    package.module:factory    file.py:factory
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import PrismifyError, SourceError
from ..families import FAMILIES, family
from .empty import empty_parameters

#: Arguments that ask a library for its own trained weights; a saved model brings its own.
_PRETRAINED = ("pretrained", "weights", "weights_backbone")


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

    def __str__(self) -> str:
        return f"{self.prefix}:{self.target}"

    def build(self, *, empty: bool = False) -> nn.Module:
        """The model with fresh weights, or without memory for them.

        Raises:
            SourceError: there is no such model, or its factory failed.
        """
        if self.file is not None:
            make = _from_file(self.file, self.target)
        elif self.runs_code:
            make = _from_package(self.prefix, self.target)
        else:
            make = lambda **arguments: family(self.prefix).build(self.target, arguments)  # noqa: E731
        try:
            with empty_parameters() if empty else nullcontext():
                model = make(**self.arguments)
        except PrismifyError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise SourceError(f"{self} failed: {type(error).__name__}: {text}") from error
        if not isinstance(model, nn.Module):
            raise SourceError(f"{self} returned a {type(model).__name__}, not an nn.Module")
        return model

    def without_pretrained(self) -> Reference:
        """The same architecture, not asking for trained weights."""
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
            "torchvision:name, package.module:factory and file.py:factory"
        )
    return Reference(prefix, target, dict(arguments or {}))


def _from_package(module: str, name: str) -> Callable[..., Any]:
    try:
        return _attribute(importlib.import_module(module), module, name)
    except ImportError as error:
        raise SourceError(f"cannot import {module!r} for {module}:{name}: {error}") from error


def _from_file(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file (for {path}:{name})")
    spec = importlib.util.spec_from_file_location(f"prismify_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up
    sys.path.insert(0, str(path.parent))  # a model's file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SourceError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return _attribute(module, str(path), name)


def _attribute(module: Any, where: str, name: str) -> Callable[..., Any]:
    value = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if not callable(value):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise SourceError(f"{where} has no factory {name!r}; it has {', '.join(known[:8]) or 'none'}")
    return value  # type: ignore[no-any-return]
