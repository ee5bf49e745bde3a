"""Fuse what stands around the operator: group norm, SiLU, DeepPrism and a residual sum in one pass.

`fuse` compiles a converted model with torch's Dynamo, which hands over the graphs it runs; in them the pattern

    group_norm -> silu (or x * sigmoid(x)) -> deep_prism (-> + residual)

becomes one call of `kernels.norm_act_deep_prism`. Weights, state dict and Python source stay as they are, and
gradients flow as before.
"""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import PrismifyError
from ..graph import unwrap
from ..kernels import deep_prism, norm_act_deep_prism
from ..layers import DeepPrism, Prism, PrismConv

M = TypeVar("M", bound=nn.Module)
#: Set to 0, models run as they are written, `fuse` or not.
SWITCH = "PRISMIFY_FUSION"
#: The operators that run as `deep_prism` itself; those of other ranks are never part of a pass.
FUSIBLE = (DeepPrism, Prism, PrismConv)

#: Models of one class share the source that is compiled, and with it the number of times that this may happen: each
#: counts for itself where torch can, or else the fifth one would run as it is written.
_APART: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
)

_GROUP_NORM = (F.group_norm, torch.group_norm)
_SILU = (F.silu,)
_SIGMOID = (torch.sigmoid, F.sigmoid, "sigmoid")
_MUL = (operator.mul, torch.mul, "mul")
_ADD = (operator.add, operator.iadd, torch.add, "add")
_DIVIDE = (operator.truediv, torch.div, torch.true_divide, "div")
_DROPOUT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
_IN_PLACE = (operator.setitem, *(getattr(operator, f"i{n}") for n in ("add", "sub", "mul", "truediv", "pow", "matmul")))
_FRESH = (*_GROUP_NORM, torch.ops.prismify.deep_prism.default)


@dataclass(frozen=True)
class _Match:
    """The nodes of one pattern, in the order they run, and the residual that is added last."""

    norm: fx.Node
    activation: tuple[fx.Node, ...]
    prism: fx.Node
    tail: tuple[fx.Node, ...] = ()
    residual: fx.Node | None = None

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (self.norm, *self.activation, self.prism, *self.tail)


@torch.inference_mode(False)
def fuse(model: M, *, inner: str | None = None, dynamic: bool | None = None) -> M:
    """Make a converted model run its blocks in fused passes, in training and in inference; in place.

    The model is compiled by `torch.compile` at its first call (seconds; no C++ compiler is needed unless `inner`
    is "inductor"), and again where shapes, modes or flags change. `model`, and the submodules of an autoencoder
    that `encode` and `decode` call, are compiled each by themselves. The environment variable `PRISMIFY_FUSION=0`
    switches fusion off without a change to the code; `unfuse` undoes it.

    Args:
        model: what `convert` or `load` returned.
        inner: the `torch.compile` backend that runs the fused graphs, such as "inductor"; eager when None.
        dynamic: as in `torch.compile`.

    Returns:
        the same model.

    Raises:
        PrismifyError: it holds no operator of prismify.

    Example:
        >>> from torch import nn
        >>> from prismify import DeepPrism
        >>> net = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), DeepPrism(16))
        >>> fuse(net)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """
    modules = _compiled_apart(unwrap(model))
    if not modules:
        raise PrismifyError(f"this {type(model).__name__} holds no operator of prismify: convert it first")
    for module in modules:
        module.compile(backend=partial(_backend, inner=inner), dynamic=dynamic, **_APART)
    return model


@torch.inference_mode(False)
def unfuse(model: M) -> M:
    """Let a model run as it is written again; in place, and harmless where `fuse` was never called."""
    for module in unwrap(model).modules():
        module._compiled_call_impl = None
    return model


def fuse_graph(graph_module: fx.GraphModule) -> int:
    """Fuse every match in a graph of torch-level operators, as Dynamo makes it; in place.

    Returns:
        how many passes were fused.
    """
    count = 0
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule):
            count += _fuse_one(module)
    return count


def _compiled_apart(model: nn.Module) -> list[nn.Module]:
    """The model, and the children that methods other than `forward` may call."""
    children = [c for c in model.children() if not isinstance(c, (nn.ModuleList, nn.ModuleDict, *FUSIBLE))]
    return [m for m in (model, *children) if any(isinstance(s, FUSIBLE) for s in m.modules())]


def _backend(graph_module: fx.GraphModule, example_inputs: list[Any], *, inner: str | None) -> Callable[..., Any]:
    if os.environ.get(SWITCH) != "0":
        fuse_graph(graph_module)
    if inner is None and any("checkpoint" in str(node.target) for node in graph_module.graph.nodes):
        inner = "aot_eager"  # gradient checkpointing is carried out by the partitioner alone
    if inner is None:
        _call_directly(graph_module)
        return graph_module.forward
    from torch._dynamo.backends.registry import lookup_backend

    compiled: Callable[..., Any] = lookup_backend(inner)(graph_module, example_inputs)
    return compiled


def _call_directly(graph_module: fx.GraphModule) -> None:
    """Let a graph that nobody compiles further call the operator as eager code does; in place.

    The registered one is found slowly, forward and again backward, which small models feel.
    """
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in list(module.graph.nodes):
                if node.op == "call_function" and node.target is torch.ops.prismify.deep_prism.default:
                    u, weight, bias, *pairs, padding_mode, topology = node.args
                    geometry = dict(zip(("stride", "padding", "dilation"), map(tuple, pairs), strict=True))
                    node.target, node.args = deep_prism, (u, weight, bias)
                    node.kwargs = {**geometry, "padding_mode": padding_mode, "topology": topology}
            module.recompile()


def _fuse_one(graph_module: fx.GraphModule) -> int:
    graph, count = graph_module.graph, 0
    if not any(_writes(node) for node in graph.nodes):
        _drop_identities(graph)
    nodes = list(graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    fused: set[fx.Node] = set()
    for match in filter(None, map(_match, nodes)):
        # The fused pass reads its input where the last operator stood.
        between = nodes[position[match.norm] : position[match.nodes[-1]]]
        if not any(_writes(node) for node in between if node not in fused):
            _replace(graph, match)
            fused.update(match.nodes)
            count += 1
    graph.lint()
    graph_module.recompile()
    return count


def _match(prism: fx.Node) -> _Match | None:
    if prism.op != "call_function" or prism.target is not torch.ops.prismify.deep_prism.default:
        return None
    activated = prism.args[0]
    if not isinstance(activated, fx.Node) or not _only_reader(activated, prism):
        return None
    activation = _silu(activated)
    norm = activated if activation is None else activation[0].args[0]
    if not isinstance(norm, fx.Node) or norm.op != "call_function" or norm.target not in _GROUP_NORM:
        return None
    readers = {prism} if activation is None else set(activation)
    if set(norm.users) - readers or _dtype(norm.args[0]) != _dtype(prism):
        return None  # under autocast the norm may compute in another type than its input has
    match = _Match(norm, activation or (), prism)
    return _with_residual(match)


def _silu(node: fx.Node) -> tuple[fx.Node, ...] | None:
    """The operators that make up SiLU, where `node` is its result; the first one reads its input."""
    if node.op == "call_function" and node.target in _SILU:
        return (node,)
    if node.target in _MUL and len(node.args) == 2:
        for x, gate in (node.args, node.args[::-1]):
            if isinstance(gate, fx.Node) and gate.target in _SIGMOID and gate.args == (x,) and len(gate.users) == 1:
                return gate, node
    return None


def _with_residual(match: _Match) -> _Match:
    """A match that takes the sum behind it along, where there is one of two tensors of the same shape."""
    if len(match.prism.users) != 1:
        return match
    add = next(iter(match.prism.users))
    if add.target not in _ADD or len(add.args) != 2 or add.kwargs:
        return match
    others = [a for a in add.args if a is not match.prism]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return match
    if add.target is operator.iadd and add.args[0] is not match.prism:
        return match  # it writes to the residual
    if not _same_tensors(others[0], match.prism):
        return match
    return _Match(match.norm, match.activation, match.prism, (add,), others[0])


def _replace(graph: fx.Graph, match: _Match) -> None:
    norm = _arguments(match.norm, ("input", "num_groups", "weight", "bias", "eps"))
    names = ("u", "weight", "bias", "stride", "padding", "dilation", "padding_mode", "topology")
    prism = _arguments(match.prism, names)
    last = match.nodes[-1]
    with graph.inserting_before(last):
        fused = graph.call_function(
            norm_act_deep_prism,
            (norm["input"], prism["weight"], prism.get("bias")),
            {
                "num_groups": norm["num_groups"],
                "norm_weight": norm.get("weight"),
                "norm_bias": norm.get("bias"),
                "eps": norm.get("eps", 1e-5),
                "activation": "silu" if match.activation else "none",
                "residual": match.residual,
                **{name: tuple(prism[name]) for name in ("stride", "padding", "dilation")},
                "padding_mode": prism["padding_mode"],
                "topology": prism["topology"],
            },
        )
    fused.meta = dict(last.meta)
    last.replace_all_uses_with(fused)
    for node in reversed(match.nodes):
        graph.erase_node(node)


def _drop_identities(graph: fx.Graph) -> None:
    """Take out dropout that is off, and products with one: they stand between the parts of a pattern."""
    returned = set(graph.output_node().all_input_nodes)
    for node in list(graph.nodes):
        if _is_identity(node) and node not in returned:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_identity(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method") or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.target in _DROPOUT:
        found = _arguments(node, ("input", "p", "training", "inplace"))
        return found.get("training") is False or found.get("p") == 0.0
    if node.target in (*_DIVIDE, *_MUL) and len(node.args) == 2 and not node.kwargs:
        # Of a floating-point tensor only: an integer one becomes another type.
        factor = node.args[1]
        return isinstance(factor, (int, float)) and factor == 1 and _floating(node.args[0])
    return False


def _writes(node: fx.Node) -> bool:
    """Whether a node may change a tensor that others read; not where it alone reads what a pattern just made."""
    if not _in_place(node):
        return False
    written = node.args[0] if node.args else None
    return not (isinstance(written, fx.Node) and written.target in _FRESH and _only_reader(written, node))


def _in_place(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return node.op == "call_module"
    if node.target in _IN_PLACE or "out" in node.kwargs:
        return True
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    if getattr(node.target, "__module__", None) == "torch.nn.functional":
        try:
            given = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return True
        return bool(given.get("inplace"))
    name = getattr(node.target, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _only_reader(node: fx.Node, reader: fx.Node) -> bool:
    return set(node.users) == {reader}


def _example(node: Any) -> Any:
    return node.meta.get("example_value") if isinstance(node, fx.Node) else None


def _dtype(node: Any) -> torch.dtype | None:
    return getattr(_example(node), "dtype", None)


def _floating(node: Any) -> bool:
    dtype = _dtype(node)
    return dtype is not None and dtype.is_floating_point


def _same_tensors(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes return tensors of one shape and element type, for every size a dynamic axis takes."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true, sym_eq

    x, y = _example(a), _example(b)
    if x is None or y is None or x.dtype != y.dtype or x.dim() != y.dim():
        return False
    return bool(statically_known_true(sym_eq(tuple(x.shape), tuple(y.shape))))
