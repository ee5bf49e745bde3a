"""A method run once more, as chance would have it another time: what a model uses then that it did not use before."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import count

from torch import fx, nn

from .dataflow.flow import drew, output_nodes
from .dataflow.roles import reaching
from .entry_points import EntryPoint
from .inputs import ExampleInputs
from .isolation import cloned_tensors, device_of, fake_weights, undisturbed
from .recorder import record

#: Runs in a row that show nothing new: what runs once in ten times is missed by one search in a hundred.
_PATIENCE = 48
_MOST_SECONDS = 3.0


def recorded(
    model: nn.Module, method: str, inputs: ExampleInputs, *, fake: bool, seed: int = 0, training: bool = False
) -> fx.Graph:
    """One call of `model.<method>`, on fake tensors or on copies of its own; errors of the model come through."""
    with undisturbed(model, training=training, seed=seed) as held:
        if fake:
            with fake_weights(model) as (mode, make), mode:
                return record(model, method, inputs.map(make), held)
        with cloned_tensors(model):
            return record(model, method, inputs.map(lambda t: t.to(device_of(model), copy=True)), held)


def chosen_at_random(model: nn.Module, entries: Iterable[EntryPoint]) -> tuple[frozenset[str], frozenset[str]]:
    """The parameters that no captured graph uses because the model chose at random not to.

    Returns:
        names of those that reach a result in evaluation when other random numbers are drawn; and of others, those that
        a call in training uses then.
    """
    entries = list(entries)
    missing = {name for name, p in model.named_parameters(remove_duplicate=False) if p.dim() > 1}
    missing -= {name for entry in entries if entry.graph for name in _used(entry.graph, results=True)}
    evaluated = _found(model, [entry for entry in entries if entry.graph and drew(entry.graph)], missing)
    missing -= evaluated
    missing -= {name for entry in entries if entry.training for name in _used(entry.training)}
    drawing = [entry for entry in entries if entry.training and drew(entry.training)]
    return evaluated, _found(model, drawing, missing, training=True)


def _found(
    model: nn.Module, entries: Iterable[EntryPoint], missing: set[str], *, training: bool = False
) -> frozenset[str]:
    """Which missing parameters the entry points use with other random numbers, as far as a few seeds tell."""
    found: set[str] = set()
    for entry in entries:
        assert entry.inputs is not None
        fake, begun = entry.technique == "recorder on fake tensors", time.thread_time()
        last = 0
        for seed in count(1):
            if missing <= found or seed - last > _PATIENCE or time.thread_time() - begun > _MOST_SECONDS:
                break
            try:
                graph = recorded(model, entry.method, entry.inputs, fake=fake, seed=seed, training=training)
            except Exception:  # what it chose this time does not run
                continue
            if fresh := _used(graph, results=not training) & missing - found:
                found |= fresh
                last = seed
    return frozenset(found)


def _used(graph: fx.Graph, *, results: bool = False) -> set[str]:
    """The parameters in a graph, or only those that reach one of its results."""
    nodes = reaching(graph, output_nodes(graph)) if results else graph.nodes
    return {name for node in nodes for name in node.meta.get("parameter", ())}
