"""Widths that could be narrowed, and what keeps the others: what the graphs say, and what the modules do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx, nn

from ..graph.dataflow import Widths, widths_in
from ..layers.operator import is_transposed_linear
from ..layers.spectrum.narrow import NORMS, norm_width
from .layer import Layer
from .obstacles import is_layer


def widths_of_model(
    graphs: Iterable[fx.Graph],
    nodes: Mapping[fx.Node, str],
    layers: Sequence[Layer],
    modules: Mapping[str, nn.Module],
    *,
    proven: bool,
) -> Widths:
    """Every width between a model's layers.

    Args:
        nodes: the row that each convolution or linear node belongs to.
        proven: whether the graphs show every way that channels may take.
    """
    facts = {layer.name: layer for layer in layers}
    found, rows = widths_in(graphs, nodes), []
    for width in found.rows:
        why = width.obstacle
        if why is None and not proven:
            why = "the model may use them in ways that were not seen"
        for name in (*width.makers, *width.readers):
            why = why or _of_layer(name, facts, modules)
        for name in width.norms:
            if not is_norm(modules.get(name)) or _computes_more(modules[name]):
                why = why or f"{name} is no norm of torch's own"
        rows.append(replace(width, obstacle=why))
    return replace(found, rows=tuple(rows))


def is_norm(module: nn.Module | None) -> bool:
    """Whether a module is a norm that a width may pass."""
    return isinstance(module, NORMS)


def is_replaceable(module: nn.Module | None) -> bool:
    """Whether a module stands where a plan may put another: a layer, or a norm along a width."""
    return is_layer(module) or is_norm(module)


def norm_facts(name: str, norm: nn.Module) -> Layer:
    """The row of a norm along a width."""
    channels = norm_width(norm)
    own = [p for p in norm._parameters.values() if p is not None]
    return Layer(
        name,
        "norm",
        "inner",
        channels,
        channels,
        bias=len(own) > 1,
        parameters=sum(p.numel() for p in own),
        itemsize=own[0].element_size() if own else 4,
        owns=frozenset(("weight", "bias")[: len(own)]),
    )


def _of_layer(name: str, facts: Mapping[str, Layer], modules: Mapping[str, nn.Module]) -> str | None:
    layer = facts.get(name)
    if layer is None or name not in modules:
        return f"{name} is no layer"
    if layer.obstacle is not None:
        return f"{name}: {layer.obstacle}"
    if layer.tied:
        return f"{name} shares its weight or bias with {layer.tied[0] or 'the model itself'}"
    if layer.within is not None or layer.bare:
        return f"{name} is applied by another module"
    return f"{name} cannot be narrowed" if is_transposed_linear(modules[name]) else None


def _computes_more(norm: nn.Module) -> bool:
    base: Any = next(kind for kind in type(norm).__mro__ if kind.__module__.startswith("torch.nn."))
    return type(norm).forward is not base.forward or "forward" in norm.__dict__
