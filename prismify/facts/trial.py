"""Widths that the model's own code counts: it is run with fewer channels, on fake tensors, to see whether it minds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import one_line
from ..graph import Capture
from ..graph.chance import recorded
from ..graph.dataflow.flow import output_nodes, shape
from ..layers import Operator, build_operator
from ..layers.operator import stand_in


def fails_with(model: nn.Module, capture: Capture, operators: Mapping[str, Operator]) -> str | None:
    """Why a captured model does not run, or returns other shapes, with operators in the places of modules; or None."""
    modules = dict(model.named_modules())
    with torch.random.fork_rng(devices=[]):
        made = {id(modules[name]): build_operator(what, stand_in(modules[name])) for name, what in operators.items()}
    with _swapped(model, made):
        for entry, graph in capture.graphs:
            assert entry.inputs is not None
            try:
                found = recorded(model, entry.method, entry.inputs, fake=True)
            except Exception as error:  # whatever the model's code raises
                return one_line(error)
            if [shape(n) for n in output_nodes(found)] != [shape(n) for n in output_nodes(graph)]:
                return f"{entry.method} returns other shapes"
    return None


def culprits(names: Sequence[str], fails: Callable[[Sequence[str]], str | None]) -> dict[str, str]:
    """Of names that are tried together, those with which it fails, and why; by halves."""
    why = fails(names)
    if why is None:
        return {}
    if len(names) == 1:
        return {names[0]: why}
    half = len(names) // 2
    return culprits(names[:half], fails) | culprits(names[half:], fails)


@contextmanager
def _swapped(model: nn.Module, made: Mapping[int, nn.Module]) -> Iterator[None]:
    """Modules in the places of others, by their ids, for a while."""
    undo = []
    try:
        for module in list(model.modules()):
            for name, child in module._modules.items():
                if id(child) in made:
                    undo.append((module, name, child))
        for module, name, child in undo:
            module._modules[name] = made[id(child)]
        yield
    finally:
        for module, name, child in undo:
            module._modules[name] = child
