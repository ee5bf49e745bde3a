"""A copy of a model with its replacements in, also where Python functions hold its layers; and the same in place.

`copy.deepcopy` copies objects and shares functions. Models whose forward is a closure over their layers, or whose
attributes are functions with layers among their defaults, would go on running the original's.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .graph.isolation import attributes_of

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

    def renewed(value: Any) -> Any:
        if id(value) in replacements:
            return replacements[id(value)]
        if isinstance(value, types.MethodType) and id(value.__self__) in replacements:
            return getattr(replacements[id(value.__self__)], value.__func__.__name__)
        if type(value) is tuple:
            items = tuple(renewed(item) for item in value)
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if type(value) is functools.partial:
            parts = (value.func, value.args, tuple(value.keywords.values()))
            new = tuple(renewed(part) for part in parts)
            if any(a is not b for a, b in zip(new, parts, strict=True)):
                return functools.partial(new[0], *new[1], **dict(zip(value.keywords, new[2], strict=True)))
        return value

    for value in list(_reached(model)):
        if isinstance(value, dict):
            places: Any = list(value.items())
        elif isinstance(value, list):
            places = list(enumerate(value))
        else:
            places = ()
        for key, item in places:
            if (new := renewed(item)) is not item:
                undo.append(functools.partial(value.__setitem__, key, item))
                value[key] = new
        if isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                if cell != _EMPTY and (new := renewed(cell.cell_contents)) is not cell.cell_contents:
                    undo.append(functools.partial(setattr, cell, "cell_contents", cell.cell_contents))
                    cell.cell_contents = new
            if (new := renewed(value.__defaults__)) is not value.__defaults__:
                undo.append(functools.partial(setattr, value, "__defaults__", value.__defaults__))
                value.__defaults__ = new
    return undo


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
        elif isinstance(value, (list, tuple, set, frozenset)):
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
