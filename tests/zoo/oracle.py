"""Which layers read the data and which write the result, found in another way than prismify finds it: by autograd.

Every layer's output is cut off and made a leaf of its own. What a later tensor was computed from is then told by
the leaves of its autograd graph, for these reach back to the next layers only.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prismify.graph.capture import EntryPoint
from prismify.graph.inputs import tensors_in

DATA = "data"
_LAYERS = (_ConvNd, nn.Linear, nn.MultiheadAttention, nn.Embedding, nn.Bilinear, nn.RNNBase)


@dataclass
class Flow:
    """What one call showed, by names of modules.

    Args:
        reads: what each layer's input was computed from: other layers, `DATA`, names of parameters.
        writes: the layers that a result was computed from.
    """

    reads: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    writes: set[str] = field(default_factory=set)


def flow_of(model: nn.Module, entry: EntryPoint, data: set[str]) -> Flow:
    """Run one entry point with the layers cut apart.

    Args:
        data: names of the inputs that are the data.
    """
    assert entry.inputs is not None
    flow, sources = Flow(), {id(p): n for n, p in model.named_parameters() if p.dim() > 1}
    names = {m: n for n, m in model.named_modules() if isinstance(m, _LAYERS)}
    kept: list[Tensor] = []
    memo: dict[Any, frozenset[str]] = {}
    inputs = entry.inputs.map(lambda t: t.clone().requires_grad_(t.is_floating_point()))
    sources.update({id(t): DATA for n, t in inputs.tensors() if n in data})

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        for tensor in tensors_in((args, kwargs)):
            flow.reads[names[module]] |= _leaves(tensor, sources, memo)

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        def cut(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                return tensor
            leaf = tensor.detach().requires_grad_()
            sources[id(leaf)] = names[module]
            kept.append(leaf)  # an id means nothing once its owner is gone
            return leaf.clone()  # in-place operators may not write to a leaf

        return tuple(map(cut, output)) if isinstance(output, tuple) else cut(output)

    hooks = [
        h for m in names for h in (m.register_forward_pre_hook(enter, with_kwargs=True), m.register_forward_hook(leave))
    ]
    try:
        with torch.enable_grad():
            output = getattr(model, entry.method)(*inputs.args, **inputs.kwargs)
        for tensor in tensors_in(output):
            if tensor.is_floating_point():
                flow.writes |= _leaves(tensor, sources, memo)
    finally:
        for hook in hooks:
            hook.remove()
    return flow


def _leaves(tensor: Tensor, sources: dict[int, str], memo: dict[Any, frozenset[str]]) -> frozenset[str]:
    """What a tensor was computed from; `memo` holds what is known of the nodes of the autograd graph."""
    if tensor.grad_fn is None:
        return frozenset([sources[id(tensor)]]) if id(tensor) in sources else frozenset()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting[-1]
        before = [n for n, _ in node.next_functions if n is not None]
        missing = [n for n in before if n not in memo]
        if missing:
            waiting += missing
            continue
        variable = getattr(node, "variable", None)
        own = [sources[id(variable)]] if variable is not None and id(variable) in sources else []
        memo[node] = frozenset(own).union(*(memo[n] for n in before))
        waiting.pop()
    return memo[tensor.grad_fn]


def contradictions(found: dict[str, str], flows: list[Flow]) -> list[str]:
    """Where roles (by layer) and flows disagree, one line each.

    Silent about operators with weights of their own: autograd sees no layer there.
    """
    wrong = []
    for flow in flows:
        for name, sources in flow.reads.items():
            others = {s for s in sources if s != DATA and found.get(s, "inner") not in ("cond", "dead")}
            if "input" in found.get(name, "") and all(DATA not in f.reads.get(name, ()) for f in flows):
                wrong.append(f"{name} is an input layer, but no data reaches it directly")
            if DATA in sources and not others and found.get(name) in ("inner", "output"):
                wrong.append(f"{name} reads nothing but the data, and is called {found[name]}")
    layers = {name for flow in flows for name in flow.reads}
    written = set().union(*(flow.writes for flow in flows))
    for name, role in found.items():
        if "output" in role and name in layers and name not in written:
            wrong.append(f"{name} is an output layer, but no result comes directly from it")
    return list(dict.fromkeys(wrong))
