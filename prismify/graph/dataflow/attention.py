"""Find attention in a graph by its product, and its q, k, v and output projections by what feeds and follows it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import fx

from .channels import BETWEEN, VIEWS, channels_reaching, is_depthwise
from .flow import ATTENTION, MATMUL, SOFTMAX, data_operands, numel, operator_name, shape
from .roles import LayerUse

Part = Literal["q", "k", "v", "out"]
AttentionKind = Literal["self", "cross", "joint", "mixed"]
Product = tuple[fx.Node, fx.Node, fx.Node]

_NORMS = {"layer_norm", "group_norm", "rms_norm", "batch_norm", "native_layer_norm"}
_SUMS = {"add", "add_", "sub"}


@dataclass(frozen=True)
class Attention:
    """One attention product and the layers around it.

    Args:
        node: the product with v.
        module: qualified name of the module that ran it.
        kind: "self" (q, k and v read one source), "cross" (k and v read another), "joint" (several layers
            a role, as in SD3 and Flux), "mixed" (sources overlap otherwise).
        parts: (role, layer) pairs; one layer with several roles is a fused projection.
        operands: what enters the products as q, k and v.
        linear: there is no softmax between the two products.
    """

    node: fx.Node
    module: str
    kind: AttentionKind
    parts: tuple[tuple[Part, LayerUse], ...]
    operands: tuple[fx.Node, fx.Node, fx.Node]
    linear: bool = False

    def layers(self, *parts: Part) -> list[LayerUse]:
        """The layers with any of the given roles (all when none is given), each once."""
        wanted = [u for p, u in self.parts if not parts or p in parts]
        return list({u.node: u for u in wanted}.values())

    @property
    def fused(self) -> bool:
        """Whether one layer makes two or three of q, k and v."""
        qkv = [u.node for p, u in self.parts if p != "out"]
        return len(set(qkv)) < len(qkv)

    def channels(self, use: LayerUse) -> dict[Part, set[int]]:
        """Which output channels of a layer reach q, k and v; empty sets where that cannot be told."""
        played = [part for part, other in self.parts if other.node is use.node]
        sources = dict(zip(("q", "k", "v"), self.operands, strict=True))
        return {part: channels_reaching(sources[part], use.node) for part in played if part != "out"}


def find_attention(graph: fx.Graph, uses: Iterable[LayerUse]) -> list[Attention]:
    """Every attention of a captured graph whose layers are `uses` (see `roles`)."""
    layers = {use.node: use for use in uses}
    live = _descending_from_inputs(graph)
    found = []
    for node in graph.nodes:
        product = _product(node, live)
        linear = product is None
        if product is None:
            product = _linear_product(node, live)
        if product is None:
            continue
        q, k, v = (_layers_behind(end, layers, live) for end in product)
        if not (q and k and v):
            continue
        out = _layers_after(node, layers, live)
        parts: list[tuple[Part, LayerUse]] = []
        for part, members in zip(("q", "k", "v", "out"), (q, k, v, out), strict=True):
            parts += [(part, use) for use in members]  # type: ignore[misc]
        found.append(Attention(node, _owner(node, out), _kind(q, k, v), tuple(parts), product, linear))
    return found


def _product(node: fx.Node, live: set[fx.Node]) -> Product | None:
    """(q, k, v) where `node` is softmax(q·k)·v, in one operator or spelt out."""
    if node.op != "call_function":
        return None
    name = operator_name(node)
    if ATTENTION.search(name):
        q, k, v = data_operands(node)[:3]
        return q, k, v
    if name not in MATMUL or name == "linear":
        return None
    operands = [a for a in data_operands(node) if len(shape(a)) >= 3]
    if len(operands) < 2:
        return None
    # v may stand on either side: softmax(q·k) v, or, transposed, v softmax(q·k).
    for weights, v in ((operands[-2], operands[-1]), (operands[-1], operands[-2])):
        softmax = _back_to(weights, lambda n: operator_name(n) in SOFTMAX)
        if softmax is None:
            continue
        score = _back_to(data_operands(softmax)[0], lambda n: operator_name(n) in MATMUL - {"linear"})
        if score is not None:
            factors = data_operands(score)[-2:]
            if set(factors) <= live:
                return factors[0], factors[1], v
    return None


def _linear_product(node: fx.Node, live: set[fx.Node]) -> Product | None:
    """(q, k, v) where `node` is a product of three factors without softmax: q·(kᵀ·v), or (q·kᵀ)·v."""
    if node.op != "call_function" or operator_name(node) not in MATMUL - {"linear"}:
        return None
    operands = [a for a in data_operands(node) if a in live and len(shape(a)) >= 3]
    if len(operands) != 2:
        return None
    for inner, other in (operands, reversed(operands)):
        first = _back_to(inner, lambda n: operator_name(n) in MATMUL - {"linear"}, barrier=SOFTMAX)
        factors = [a for a in data_operands(first) if a in live and len(shape(a)) >= 3] if first else []
        if first is None or len(factors) != 2:
            continue
        # Summing over positions first (k and v meet) leaves a product smaller than the scores would be.
        if numel(first) > max(numel(factor) for factor in factors):
            return factors[0], factors[1], other
        return other, factors[0], factors[1]
    return None


def _back_to(start: fx.Node, wanted: Callable[[fx.Node], bool], barrier: Collection[str] = ()) -> fx.Node | None:
    """The nearest node with the wanted operator behind `start`, through rearranging, scaling and masks.

    Operators named in `barrier` are not looked behind.
    """
    frontier, seen = [start], {start}
    while frontier:
        node = frontier.pop(0)
        if node.op == "call_function" and wanted(node):
            return node
        if node.op != "call_function" or operator_name(node) not in BETWEEN or operator_name(node) in barrier:
            continue
        for operand in data_operands(node):
            if operand not in seen and numel(operand) >= numel(start):
                seen.add(operand)
                frontier.append(operand)
    return None


def _layers_behind(start: fx.Node, layers: dict[fx.Node, LayerUse], live: set[fx.Node]) -> list[LayerUse]:
    """The first layers behind an operand of the product, through rearranging, norms, rotary and joining.

    A sum of two data paths that come from different layers is a residual stream, and is not crossed; the
    sum in a rotary embedding comes from one.
    """
    memo: dict[fx.Node, tuple[LayerUse, ...]] = {}

    def behind(node: fx.Node) -> tuple[LayerUse, ...]:
        if node not in memo:
            memo[node] = ()
            memo[node] = search(node)
        return memo[node]

    def search(node: fx.Node) -> tuple[LayerUse, ...]:
        if node in layers:
            # What works in each channel by itself (MViT's pooling, Restormer) is no projection; that stands behind it.
            further = behind(layers[node].data) if is_depthwise(node) else ()
            return further or (layers[node],)
        if node.op != "call_function" or operator_name(node) not in BETWEEN:
            return ()
        found = [behind(operand) for operand in data_operands(node) if operand in live]
        if operator_name(node) in _SUMS and len({frozenset(u.node for u in part) for part in found}) > 1:
            return _adapted(found, layers)
        return tuple({use.node: use for part in found for use in part}.values())

    # Graphs are deep but what stands between a projection and the product is not.
    return list(behind(start))


def _adapted(found: list[tuple[LayerUse, ...]], layers: dict[fx.Node, LayerUse]) -> tuple[LayerUse, ...]:
    """The base of a low-rank adapter where a sum is that: both summands read one source, one through two layers."""
    if any(len(part) != 1 for part in found) or len(found) != 2:
        return ()
    for (base,), (up,) in (found, found[::-1]):
        down = layers.get(_through_scaling(up.data))
        if down is not None and _through_scaling(down.data) is _through_scaling(base.data):
            return (base,)
    return ()


def _through_scaling(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and operator_name(node) in VIEWS | {"dropout", "mul"} and data_operands(node):
        node = data_operands(node)[0]
    return node


def _layers_after(start: fx.Node, layers: dict[fx.Node, LayerUse], live: set[fx.Node]) -> list[LayerUse]:
    """The first layers that read the product, not looking past the sum that joins it to a residual stream."""
    frontier, walked, found = [start], {start}, []
    while frontier:
        node = frontier.pop(0)
        for user in node.users:
            if user in walked or user.op != "call_function":
                continue
            walked.add(user)
            if user in layers:
                found.append(layers[user])
            elif operator_name(user) in _SUMS and any(o in live and o not in walked for o in data_operands(user)):
                continue
            elif operator_name(user) in BETWEEN:
                frontier.append(user)
    return found


def _descending_from_inputs(graph: fx.Graph) -> set[fx.Node]:
    live: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(operand in live for operand in data_operands(node)):
            live.add(node)
    return live


def _source(node: fx.Node) -> fx.Node:
    """What a projection reads, before views and norms, which a block may apply once for each projection."""
    while node.op == "call_function" and operator_name(node) in VIEWS | _NORMS and data_operands(node):
        node = data_operands(node)[0]
    return node


def _kind(q: list[LayerUse], k: list[LayerUse], v: list[LayerUse]) -> AttentionKind:
    if max(len(q), len(k), len(v)) > 1:
        return "joint"
    query, *others = ({_source(use.data) for use in part} for part in (q, k, v))
    if all(other == query for other in others):
        return "self"
    return "cross" if all(not (other & query) for other in others) else "mixed"


def _owner(node: fx.Node, out: list[LayerUse]) -> str:
    """The module that ran the product; a bare function's call is named after the output projection's parent."""
    module = str(node.meta["module"])
    return module or (out[0].module.rpartition(".")[0] if out else "")
