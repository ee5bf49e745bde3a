"""A copy of a model with its replacements in, also where Python functions hold its layers; and the same in place.

`copy.deepcopy` copies objects and shares functions. Models whose forward is a closure over their layers, or whose
attributes are functions with layers among their defaults, would go on running the original's.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..graph.isolation import attributes_of, slots_of

M = TypeVar("M", bound=nn.Module)
_LEAVES = (type, types.ModuleType, str, bytes, int, float, complex, torch.dtype, torch.device)
_EMPTY = types.CellType()


def copied(model: M, replacements: Mapping[int, nn.Module], memo: dict[int, Any]) -> M:
    """A deep copy in which `replacements`, by the ids of the modules they replace, stand in those modules' places.

    Args:
        memo: `deepcopy`'s; the replacements are added to it.
    """
    memo.update(replacements)
    mine = _tensors_and_modules(model)
    functions: list[types.FunctionType] = []
    for value in _reached(model):
        if isinstance(value, types.MethodType) and id(value.__self__) in replacements:
            # A layer's bound forward, kept as an attribute, becomes its replacement's.
            memo[id(value)] = getattr(replacements[id(value.__self__)], value.__func__.__name__)
        elif isinstance(value, types.FunctionType) and _holds(value, mine):
            functions.append(value)
        elif isinstance(value, Tensor) and not value.is_leaf:
            # The result of an earlier call (weight_norm's weight), which torch does not copy: values alone.
            memo[id(value)] = value.detach().clone()
    cells: dict[int, types.CellType] = {}
    for function in functions:
        memo[id(function)] = _like(function, cells)
    made = copy.deepcopy(model, memo)
    for function in functions:
        twin = memo[id(function)]
        for cell in function.__closure__ or ():
            if cell != _EMPTY and cells[id(cell)] == _EMPTY:
                cells[id(cell)].cell_contents = copy.deepcopy(cell.cell_contents, memo)
        twin.__defaults__ = copy.deepcopy(function.__defaults__, memo)
        twin.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    return made


def rebound(model: nn.Module, replacements: Mapping[int, nn.Module]) -> list[Callable[[], None]]:
    """Put replacements, by the ids of what they replace, wherever a model holds those outside its module tree.

    Returns:
        what undoes it, to be called in reverse.
    """
    undo: list[Callable[[], None]] = []
    for value in list(_reached(model)):
        if isinstance(value, (dict, list, deque, set)):
            _renew_container(value, replacements, undo)
        elif isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                if cell != _EMPTY:
                    _renew_attribute(cell, "cell_contents", replacements, undo)
            _renew_attribute(value, "__defaults__", replacements, undo)
        else:
            for name in slots_of(value):
                _renew_attribute(value, name, replacements, undo)
    return undo


def _renewed(value: Any, replacements: Mapping[int, nn.Module]) -> Any:
    """What comes in the place of a value that is replaced, or holds what is and cannot be changed; else the value."""
    if id(value) in replacements:
        return replacements[id(value)]
    if isinstance(value, types.MethodType) and id(value.__self__) in replacements:
        return getattr(replacements[id(value.__self__)], value.__func__.__name__)
    if isinstance(value, weakref.ref) and id(value()) in replacements:
        return weakref.ref(replacements[id(value())])
    if isinstance(value, (tuple, frozenset)):
        items = [_renewed(item, replacements) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        if hasattr(value, "_make"):
            return value._make(items)
        return type(value)(items) if type(value) in (tuple, frozenset) else value
    if type(value) is functools.partial:
        parts = (value.func, value.args, tuple(value.keywords.values()))
        new = tuple(_renewed(part, replacements) for part in parts)
        if any(a is not b for a, b in zip(new, parts, strict=True)):
            return functools.partial(new[0], *new[1], **dict(zip(value.keywords, new[2], strict=True)))
    return value


def _renew_container(value: Any, replacements: Mapping[int, nn.Module], undo: list[Callable[[], None]]) -> None:
    places: Any = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    if isinstance(value, set) or (isinstance(value, dict) and any(type(key) is not str for key in value)):
        # What is looked up by a layer is looked up by its replacement.
        before = list(value.items()) if isinstance(value, dict) else list(value)
        after = [_renewed(item, replacements) for item in before]
        if any(a is not b for a, b in zip(after, before, strict=True)):
            undo.append(functools.partial(_refill, value, before))
            _refill(value, after)
        return
    for key, item in places:
        if (new := _renewed(item, replacements)) is not item:
            undo.append(functools.partial(value.__setitem__, key, item))
            value[key] = new


def _refill(value: Any, content: list[Any]) -> None:
    value.clear()
    value.update(content)


def _renew_attribute(
    holder: Any, name: str, replacements: Mapping[int, nn.Module], undo: list[Callable[[], None]]
) -> None:
    item = getattr(holder, name)
    if (new := _renewed(item, replacements)) is not item:
        put = setattr if isinstance(holder, (types.CellType, types.FunctionType)) else object.__setattr__
        undo.append(functools.partial(put, holder, name, item))
        put(holder, name, new)


def held_by_classes(model: nn.Module, originals: Mapping[int, str]) -> str | None:
    """A class of the model's whose functions hold one of the originals: neither copies nor replacements reach there."""
    for kind in {kind for module in model.modules() for kind in type(module).__mro__}:
        if kind.__module__.startswith("torch."):
            continue
        for function in vars(kind).values():
            if isinstance(function, types.FunctionType) and _holds(function, set(originals)):
                return f"{kind.__name__}.{function.__name__}"
    return None


def originals_of(model: nn.Module) -> dict[int, str]:
    """The names of a model's modules, parameters and buffers, by their ids."""
    named = [*model.named_modules(), *model.named_parameters(), *model.named_buffers()]
    return {id(value): name for name, value in reversed(named)}


def _tensors_and_modules(model: nn.Module) -> set[int]:
    return {id(value) for value in (*model.modules(), *model.parameters(), *model.buffers())}


def _like(function: types.FunctionType, cells: dict[int, types.CellType]) -> types.FunctionType:
    """The same code with cells of its own, still empty; functions that share a cell go on sharing one."""
    closure = tuple(cells.setdefault(id(cell), types.CellType()) for cell in function.__closure__ or ())
    twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, closure or None)
    twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__, function.__module__, function.__doc__
    twin.__dict__.update(function.__dict__)
    return twin


def _holds(function: types.FunctionType, mine: set[int]) -> bool:
    """Whether a function's closure or defaults lead to one of `mine`."""
    parts = [c.cell_contents for c in function.__closure__ or () if c != _EMPTY]
    parts += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return any(id(value) in mine for part in parts for value in _reached(part))


def _reached(start: Any) -> Iterator[Any]:
    """Everything that a value leads to: attributes, containers, closures, defaults, methods and partial functions."""
    seen: set[int] = set()
    waiting: list[Any] = [start]
    while waiting:
        value = waiting.pop()
        if value is None or isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, Tensor):
            continue
        if isinstance(value, dict):
            waiting.extend(value.values())
            waiting.extend(key for key in value if type(key) is not str)
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            waiting.extend(value)
        elif isinstance(value, types.MethodType):
            waiting += [value.__self__, value.__func__]
        elif isinstance(value, types.FunctionType):
            waiting += [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY]
            waiting += [value.__defaults__, value.__kwdefaults__]
        elif isinstance(value, functools.partial):
            waiting += [value.func, value.args, value.keywords]
        if not isinstance(value, types.FunctionType) and isinstance(own := attributes_of(value), dict):
            waiting.append(own)
        waiting.extend(slots_of(value).values())
