"""The inputs that a plan is carried out on: its own, or those that its file describes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..graph import Capture, ExampleInputs, capture_all
from ..graph.inputs import noise
from ..plan import Plan

#: The methods that a plan's file may have run.
_METHODS = ("forward", "encode", "decode")
#: Numbers in the largest example that a plan's file may ask for.
_LARGEST = 1 << 28


def captured_for(
    model: nn.Module, plan: Plan | None, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None
) -> Capture:
    """The capture of an unwrapped model that a plan is carried out on: on given inputs, else on the plan's own.

    Where neither runs, or there is no plan, inputs are guessed.
    """
    if args is None and kwargs is None and plan is not None:
        inputs = plan.examples or _described(plan)
        methods = [method for method in inputs if callable(getattr(model, method, None))]
        if methods:
            try:
                return capture_all(model, methods=methods, given=inputs)
            except CaptureError:
                pass  # the plan is of a model that took other inputs
    return capture_all(model, args, kwargs)


def _described(plan: Plan) -> dict[str, ExampleInputs]:
    """Inputs of the shapes and types that a plan's file holds; none for a method that took more than tensors."""
    found = {}
    for row in plan.capture:
        method, rows = row.get("method"), row.get("inputs")
        if method not in _METHODS or not isinstance(rows, (list, tuple)):  # a file does not say what is called
            continue
        tensors = {str(i.get("name")): _example(i) for i in rows if isinstance(i, dict)}
        places = [tensors.pop(name) for name in [f"arg{n}" for n in range(len(tensors))] if name in tensors]
        values = [*places, *tensors.values()]
        if values and all(value is not None for value in values) and all(name.isidentifier() for name in tensors):
            found[str(method)] = ExampleInputs(tuple(places), dict(tensors))
    return found


def _example(row: dict[str, Any]) -> torch.Tensor | None:
    """A tensor of the shape and type in a plan's row; None where those are of no tensor."""
    shape, kind = row.get("shape"), getattr(torch, str(row.get("dtype", "float32")), None)
    if not isinstance(kind, torch.dtype) or not isinstance(shape, (list, tuple)):
        return None
    if not all(type(size) is int and size >= 0 for size in shape) or prod(shape) > _LARGEST:
        return None
    return noise(*shape).to(kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)
