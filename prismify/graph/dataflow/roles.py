"""What each layer of a graph is for, read from the dataflow and never from names.

A layer is *input* when no path from a primary input reaches it through another layer, *output* when no
path from it to a primary output passes another layer, *cond* when it does not descend from the data (time,
class, text), *dead* when it reaches no output, and *inner* otherwise. "Some path" instead of "no path"
would make every writer to a residual stream an output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import fx

from .flow import (
    CONVOLUTION,
    MATMUL,
    RECURRENT,
    data_operands,
    followed_backwards,
    is_continuous,
    numel,
    operands,
    operator_name,
    output_nodes,
    shape,
)

Role = Literal["input", "output", "input+output", "inner", "cond", "dead", "unknown"]
Kind = Literal["convolution", "linear", "embedding", "recurrent"]
Span = tuple[int, int]  # fewest and most layers on any path


@dataclass(frozen=True)
class LayerUse:
    """One operator with a learned weight, at one place of a graph.

    Args:
        node: the operator; `data` and `weight` are its operands.
        kind: what family of operator it is.
        parameters: names of the parameters of two or more dimensions its weight is made of, largest first;
            each a tuple of aliases.
        modulated: the weight itself depends on the data (StyleGAN2).
        role: what the layer is for, at this place.
        partial: "input" or "output" where only some paths make it one.
    """

    node: fx.Node
    kind: Kind
    data: fx.Node
    weight: fx.Node
    parameters: tuple[tuple[str, ...], ...]
    modulated: bool
    role: Role
    partial: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Qualified name of the module that ran the operator."""
        return str(self.node.meta["module"])

    @property
    def call(self) -> int:
        """How often that module had been called before."""
        return int(self.node.meta["call"])


@dataclass(frozen=True)
class _Found:
    kind: Kind
    data: fx.Node
    weight: fx.Node
    parameters: tuple[fx.Node, ...]
    modulated: bool


def roles(graph: fx.Graph) -> list[LayerUse]:
    """Every layer of a captured graph with its role, in the order they run."""
    found = _find_layers(graph)
    # A table that is looked up by what was computed, not by tokens, rounds the data: it is a quantiser's, and no step.
    tokens = not all(is_continuous(n) for n in primary_inputs(graph))
    steps = {node for node, layer in found.items() if tokens or layer.kind != "embedding"}
    before = _layers_before(graph, steps)
    after = _layers_after(graph, steps)
    # Inputs without tensors, or data that goes on outside the tensors (as a list, through numpy), tell nothing.
    led = [node for node in found if node in before]
    lost = bool(led) and not any(node in after for node in led)
    if not primary_inputs(graph) or lost or not any(node in after for node in found):
        return [_use(node, layer, "unknown", ()) for node, layer in found.items()]
    uses = []
    for node, layer in found.items():
        role, partial = _role(before.get(layer.data), before.get(node), after.get(node))
        uses.append(_use(node, layer, role, partial))
    return uses


def _use(node: fx.Node, layer: _Found, role: Role, partial: tuple[str, ...]) -> LayerUse:
    names = tuple(p.meta["parameter"] for p in layer.parameters)
    return LayerUse(node, layer.kind, layer.data, layer.weight, names, layer.modulated, role, partial)


def merge_roles(seen: Iterable[Role]) -> Role:
    """The role of a module used at several places or entry points: once input or output, always.

    Example:
        >>> merge_roles(["inner", "output"]), merge_roles(["cond", "inner"]), merge_roles([])
        ('output', 'inner', 'unknown')
    """
    kinds = set(seen)
    reads = bool(kinds & {"input", "input+output"})
    writes = bool(kinds & {"output", "input+output"})
    if reads or writes:
        return "input+output" if reads and writes else "input" if reads else "output"
    for role in ("inner", "cond", "dead"):
        if role in kinds:
            return role
    return "unknown"


def _role(data: Span | None, here: Span | None, after: Span | None) -> tuple[Role, tuple[str, ...]]:
    if here is None:
        return "cond", ()
    if after is None:
        return "dead", ()
    reads = data is not None and data[1] == 0
    writes = after[1] == 0
    partial = []
    if data is not None and data[0] == 0 < data[1]:
        partial.append("input")
    if after[0] == 0 < after[1]:
        partial.append("output")
    role: Role = "input+output" if reads and writes else "input" if reads else "output" if writes else "inner"
    return role, tuple(partial)


def _find_layers(graph: fx.Graph) -> dict[fx.Node, _Found]:
    live: set[fx.Node] = set()  # descends from any input
    # Parameters that reach a node without crossing a layer; a layer starts a new cone.
    cone: dict[fx.Node, frozenset[fx.Node]] = {}
    found: dict[fx.Node, _Found] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or any(a in live for a in data_operands(node)):
            live.add(node)
        layer = _layer(node, live, cone)
        if layer is not None:
            found[node] = layer
            cone[node] = frozenset()
        elif "parameter" in node.meta:
            cone[node] = frozenset([node])
        else:
            cone[node] = frozenset().union(*(cone[a] for a in operands(node)))
    return found


def _layer(node: fx.Node, live: set[fx.Node], cone: dict[fx.Node, frozenset[fx.Node]]) -> _Found | None:
    if node.op != "call_function":
        return None
    name, args = operator_name(node), operands(node)

    def matrices(operand: fx.Node) -> tuple[fx.Node, ...]:
        wide = [p for p in cone[operand] if len(shape(p)) > 1]
        return tuple(sorted(wide, key=lambda p: (-numel(p), p.name)))

    kind: Kind
    data: fx.Node | None
    weight: fx.Node | None
    if CONVOLUTION.match(name):
        kind, (data, weight) = "convolution", (args[0], args[1])
    elif name == "embedding":
        kind, (weight, data) = "embedding", (args[0], args[1])
    elif name == "linear":
        kind, (data, weight) = "linear", (args[0], args[1])
    elif name in MATMUL:
        kind = "linear"
        weight = next((a for a in reversed(args) if a not in live and matrices(a)), None)
        data = next((a for a in reversed(args) if a is not weight), None)
    elif name in RECURRENT:
        kind, data = "recurrent", args[0]
        weight = next((a for a in args if a not in live and matrices(a)), None)
    else:
        return None
    if data is None or weight is None or not matrices(weight):
        return None
    return _Found(kind, data, weight, matrices(weight), weight in live)


def primary_inputs(graph: fx.Graph) -> list[fx.Node]:
    """The inputs that are the data: images, video, latents; not time, class or text.

    All floating inputs of rank 4 or more; else integer inputs of rank 3 or more; else the first floating
    input with the shape of an output; else those of the highest rank.
    """
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    floating = [n for n in inputs if n.meta["dtype"].is_floating_point]
    images = [n for n in floating if len(shape(n)) >= 4]
    indices = [n for n in inputs if n not in floating and len(shape(n)) >= 3]
    if images or indices:
        return images or indices
    shapes = {shape(n) for n in output_nodes(graph)}
    same = [n for n in floating if shape(n) in shapes]
    if same:
        return same[:1]
    highest = max((len(shape(n)) for n in inputs), default=0)
    return [n for n in inputs if len(shape(n)) == highest]


def results(graph: fx.Graph) -> list[list[fx.Node]]:
    """The outputs, by worth: numbers of rank 2 or more; codes and masks of such rank; what sums up (losses, scores).

    A loss is computed from the data that is returned beside it, often by a network of its own, and codes are
    read off it. So the later lists are asked only about layers that reach nothing in an earlier one.
    """
    outputs = output_nodes(graph)
    large = [n for n in outputs if len(shape(n)) > 1]
    by_worth = [[n for n in large if is_continuous(n)], [n for n in large if not is_continuous(n)]]
    return [nodes for nodes in (*by_worth, [n for n in outputs if n not in large]) if nodes]


def _layers_before(graph: fx.Graph, steps: set[fx.Node]) -> dict[fx.Node, Span]:
    """How many layers stand between the data and each node's result; what does not descend from it is not in it.

    Where numbers flow, the way that indices take beside them (a quantiser with straight-through) is none.
    """
    return {**_spans_from_data(graph, steps, lambda n: True), **_spans_from_data(graph, steps, is_continuous)}


def _spans_from_data(graph: fx.Graph, steps: set[fx.Node], wanted: Callable[[fx.Node], bool]) -> dict[fx.Node, Span]:
    spans: dict[fx.Node, Span] = dict.fromkeys(primary_inputs(graph), (0, 0))
    for node in graph.nodes:
        reached = [spans[a] for a in data_operands(node) if a in spans and wanted(a)]
        if node not in spans and reached:
            step = int(node in steps)
            spans[node] = (min(s[0] for s in reached) + step, max(s[1] for s in reached) + step)
    return spans


def _layers_after(graph: fx.Graph, steps: set[fx.Node]) -> dict[fx.Node, Span]:
    """How many layers stand between each node and a result; what reaches none is not in it."""
    after: dict[fx.Node, Span] = {}
    for ends in results(graph):
        # What reaches a result only as a gate (squeeze-and-excite, a style) is used, yet never the output.
        gated = dict.fromkeys(reaching(graph, ends), (1, 1))
        by_indices = _spans_to(graph, steps, ends, lambda n: True)
        after = {**gated, **by_indices, **_spans_to(graph, steps, ends, is_continuous), **after}
    return after


def reaching(graph: fx.Graph, ends: list[fx.Node]) -> set[fx.Node]:
    """Every node whose values flow into one of `ends`, through gates as well."""
    reached = set(ends)
    for node in reversed(graph.nodes):
        if node in reached:
            reached.update(data_operands(node))
    return reached


def _spans_to(
    graph: fx.Graph, steps: set[fx.Node], ends: list[fx.Node], wanted: Callable[[fx.Node], bool]
) -> dict[fx.Node, Span]:
    spans: dict[fx.Node, Span] = dict.fromkeys(ends, (0, 0))
    for node in reversed(graph.nodes):
        if node not in spans or node.op != "call_function":
            continue
        step = int(node in steps)
        fewest, most = spans[node][0] + step, spans[node][1] + step
        for operand in filter(wanted, followed_backwards(node)):
            known = spans.get(operand, (fewest, most))
            spans[operand] = (min(known[0], fewest), max(known[1], most))
    return spans
