"""Tensors inside whatever people pass a model: dicts and their relatives, dataclasses, batch objects of their own."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

#: What is passed on as it is: it holds no inputs, or is nobody's to copy.
_OPAQUE = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.FunctionType, types.MethodType,
           nn.Module, torch.dtype, torch.device, torch.Generator)  # fmt: skip


def named_tensors(value: Any) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """(path, tensor) for every tensor in nested containers and plain objects, in order.

    Example:
        >>> [path for path, _ in named_tensors({"image": torch.zeros(1), "sizes": [torch.zeros(2)]})]
        [('image',), ('sizes', '0')]
    """
    yield from _walk(value, (), {})


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers and plain objects (a model's output), once each."""
    return iter({id(tensor): tensor for _, tensor in named_tensors(value)}.values())


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of nested containers and plain objects with `function` applied to every tensor.

    What holds no tensor stays the very object that it was.
    """
    return _mapped(function, value, {})


def _walk(value: Any, path: tuple[str, ...], seen: dict[int, Any]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif id(value) not in seen:  # a batch may refer to itself
        members = _items(value)
        if members:
            seen[id(value)] = value  # an id means nothing once its owner is gone
        for key, item in members:
            yield from _walk(item, (*path, key), seen)


def _items(value: Any) -> list[tuple[str, Any]]:
    """The members of a container or plain object by name."""
    if isinstance(value, _OPAQUE):
        return []
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        names = getattr(value, "_fields", None) or range(len(value))
        return [(str(name), item) for name, item in zip(names, value, strict=True)]
    return _attributes(value)


def _attributes(value: Any) -> list[tuple[str, Any]]:
    own = getattr(value, "__dict__", None)
    return [*(own.items() if isinstance(own, dict) else ()), *((n, getattr(value, n)) for n in _slots(value))]


def _slots(value: Any) -> list[str]:
    """The filled `__slots__` of an object, by the names that Python gives private ones."""
    names = []
    for kind in type(value).__mro__:
        declared = vars(kind).get("__slots__", ())
        for name in (declared,) if isinstance(declared, str) else declared:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{kind.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in names if name not in ("__dict__", "__weakref__") and hasattr(value, name)]


def _mapped(function: Callable[[Tensor], Tensor], value: Any, made: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if id(value) in made:
        return made[id(value)]
    if next(named_tensors(value), None) is None:
        return value
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return _sequence(function, value, made)
    if isinstance(value, types.MappingProxyType):
        return types.MappingProxyType({key: _mapped(function, item, made) for key, item in value.items()})
    new = made[id(value)] = _copy(value)
    if isinstance(value, MutableMapping):
        for key, item in value.items():
            new[key] = _mapped(function, item, made)
        return new
    for name in _slots(value):
        object.__setattr__(new, name, _mapped(function, getattr(value, name), made))  # frozen dataclasses, too
    for name, item in getattr(value, "__dict__", {}).items():
        new.__dict__[name] = _mapped(function, item, made)
    return new


def _copy(value: Any) -> Any:
    """A shallow copy; of a dict whose class cannot be made from nothing as well."""
    try:
        return copy.copy(value)
    except TypeError:
        if not isinstance(value, dict):
            raise
        kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        new = type(value).__new__(type(value))
        vars(new).update(vars(value))
        for key, item in value.items():
            kind.__setitem__(new, key, item)
        return new


def _sequence(function: Callable[[Tensor], Tensor], value: Any, made: dict[int, Any]) -> Any:
    items = [_mapped(function, item, made) for item in value]
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(items)
    if hasattr(value, "_fields"):
        return type(value)(*items)
    if isinstance(value, tuple):
        return tuple.__new__(type(value), items)
    new = copy.copy(value)
    new.clear()
    (new.update if isinstance(new, set) else new.extend)(items)
    return new
