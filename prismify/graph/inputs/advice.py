"""What a person can do about inputs that could not be guessed, in words that can be typed as they stand."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import torch
from torch import Tensor, nn

from ...families.inputs import CONTEXT_LENGTH
from .containers import named_tensors
from .example_inputs import RULES, ExampleInputs
from .hints import Hints, noise, parameters_of

#: Optional arguments that one message names at most.
_MOST = 4
#: What an error says where an argument is missing that the signature calls optional.
_MISSES = re.compile(r"None|^AssertionError$")


def advice(model: nn.Module, method: str, nearest: ExampleInputs | None, reason: str, *, whole: bool) -> str:
    """How a person gives the inputs: the options, word for word, one an argument; empty where inputs are no cure.

    Args:
        nearest: the inputs that came furthest, whose shapes serve as the example.
        reason: the error that they ended in.
        whole: nothing that is required was left out, so that only optional arguments may be missing.
    """
    parameters, tried = parameters_of(getattr(model, method)), _by_name(model, method, nearest)
    optional = _optional(parameters, tried, reason)
    said = []
    if optional:
        shown = " ".join(_option(name, _example(model, name)) for name in optional)
        said = [f"it may need what its signature calls optional: {shown}"]
    if not whole:
        names = [n for n, p in parameters if p.default is p.empty or n in tried] or [n for n, _ in parameters[:1]]
        shown = " ".join(_option(name, tried.get(name, noise(1, 3, 64, 64))) for name in names)
        asked = shown or f"{method} names no argument, so in Python, as args=(...)"
        said.insert(0, f"give the inputs yourself: {asked}")
    return "; ".join(said)


def _by_name(model: nn.Module, method: str, inputs: ExampleInputs | None) -> dict[str, Any]:
    if inputs is None:
        return {}
    try:
        return inspect.signature(getattr(model, method)).bind_partial(*inputs.args, **inputs.kwargs).arguments
    except (TypeError, ValueError):
        return dict(inputs.kwargs)


def _optional(parameters: list[tuple[str, inspect.Parameter]], tried: dict[str, Any], reason: str) -> list[str]:
    """Arguments that are None unless given, where the error names them or speaks of a None."""
    absent = [n for n, p in parameters if p.default is None and tried.get(n) is None]
    named = [n for n in absent if re.search(rf"\b{re.escape(n)}\b", reason)]
    if named or not _MISSES.search(reason):
        return named[:_MOST]
    return sorted(absent, key=lambda n: n not in RULES)[:_MOST]


def _example(model: nn.Module, name: str) -> Any:
    """An argument that no guess has tried: as its rule has it, else a mask, a class or a context."""
    rule = RULES.get(name)
    value = rule(Hints(model)) if rule is not None else None
    if value is not None:
        return value
    if "mask" in name:
        return torch.ones(1, CONTEXT_LENGTH, dtype=torch.long)
    if re.search(r"(^|_)(y|class|classes|label|labels|ids?)$", name):
        return torch.zeros(1, dtype=torch.long)
    width = _foreign_width(model)
    return noise(1, 3, 64, 64) if width is None else noise(1, CONTEXT_LENGTH, width)


def _foreign_width(model: nn.Module) -> int | None:
    """The width of the first linear layer that reads what no layer of the model makes: a context."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    made = {m.out_features for m in linears} | {getattr(m, "out_channels", None) for m in model.modules()}
    return next((m.in_features for m in linears if m.in_features not in made), None)


def _option(name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else ":ones" if bool(value.all()) else ":int"
        return f"--input {name}={','.join(map(str, value.shape)) or '1'}{kind}"
    if next(named_tensors(value), None) is not None:
        return f"--input {name}={name}.pt"
    try:
        return f"--input {name}:='{json.dumps(value)}'"
    except TypeError:  # no JSON: an object of the caller's own
        return f"{name} as it was given"
