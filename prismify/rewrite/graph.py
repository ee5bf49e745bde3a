"""Rewrite the operators of a `torch.fx.GraphModule`: weights that graph nodes use without a module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import PlanError
from ..graph.stand_in import layer_from
from ..plan import Decision

_aten = torch.ops.aten
_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_ARGUMENTS = (*_CONV_ARGUMENTS[:5], "output_padding", "groups", "dilation")
_CONVOLUTION_ARGUMENTS = (*_CONV_ARGUMENTS[:6], "transposed", "output_padding", "groups")
_TRANSPOSED = (
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
)
#: The calls a graph may hold, with the order of their arguments.
_SIGNATURES: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d), _CONV_ARGUMENTS),
    **{
        getattr(op, kind): _CONV_ARGUMENTS
        for op in (_aten.conv1d, _aten.conv2d, _aten.conv3d)
        for kind in ("default", "padding")
    },
    **dict.fromkeys(_TRANSPOSED, _TRANSPOSED_ARGUMENTS),
    _aten.convolution.default: _CONVOLUTION_ARGUMENTS,
    F.linear: ("input", "weight", "bias"),
    _aten.linear.default: ("input", "weight", "bias"),
}


def operator_layer(model: fx.GraphModule, row: Decision) -> nn.Module | None:
    """The layer that a row's operators amount to, holding the graph's own weight; None when there is none.

    Raises:
        PlanError: the row's operators use the weight in ways that differ.
    """
    layers = [layer for layer in (_layer(model, node) for node in _nodes(model, row.name)) if layer is not None]
    if not layers:
        return None
    if any(str(layer) != str(layers[0]) for layer in layers):
        raise PlanError(f"{row.name}: its weight is used in more than one way; keep it")
    return layers[0]


def replace_operators(model: fx.GraphModule, new: dict[str, nn.Module]) -> None:
    """Turn each named row's operators into calls of its new module, and drop the weights nobody uses."""
    for name, module in new.items():
        nodes = _nodes(model, name)
        weights = {id(_tensor(model, operand)) for node in nodes for operand in _weights(node)}
        names = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in weights]
        target = _free_name(model, name, set(names))
        for node in nodes:
            with model.graph.inserting_before(node):
                # Not `call_module`, which wants the module in its place while the old weights still are.
                call = model.graph.create_node("call_module", target, (bound_arguments(node)["input"],))
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            model.graph.erase_node(node)
        _drop_unused(model, names)
        model.add_submodule(target, module)
    model.graph.lint()
    model.recompile()


def _drop_unused(model: fx.GraphModule, names: list[str]) -> None:
    """Remove parameters that no node reads any more, and the nodes that fetched them."""
    fetches = [n for n in model.graph.nodes if n.op == "get_attr" and str(n.target) in names]
    for node in [n for n in fetches if not n.users]:
        model.graph.erase_node(node)
    kept = {id(_tensor(model, n)) for n in fetches if n.users}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        if id(model.get_parameter(name)) not in kept:
            delattr(model.get_submodule(owner), leaf)


def _nodes(model: fx.GraphModule, name: str) -> list[fx.Node]:
    """The calls whose weight is the parameter `name`, or that module's `weight`, under whatever alias."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wanted = parameters.get(name, parameters.get(f"{name}.weight"))
    if wanted is None:
        return []
    return [
        node
        for node in model.graph.nodes
        if is_operator(node)
        and isinstance(weight := bound_arguments(node).get("weight"), fx.Node)
        and weight.op == "get_attr"
        and parameters.get(str(weight.target)) is wanted
    ]


def _tensor(model: fx.GraphModule, node: fx.Node) -> nn.Parameter:
    return model.get_parameter(str(node.target))


def is_operator(node: fx.Node) -> bool:
    """Whether a node is a call that may be replaced."""
    return node.op == "call_function" and node.target in _SIGNATURES


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of such a call by name."""
    return {**dict(zip(_SIGNATURES[node.target], node.args, strict=False)), **node.kwargs}


def _weights(node: fx.Node) -> list[fx.Node]:
    bound = bound_arguments(node)
    found = [bound.get("weight"), bound.get("bias")]
    return [n for n in found if isinstance(n, fx.Node) and n.op == "get_attr"]


def _layer(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    bound = bound_arguments(node)
    weight = model.get_parameter(str(bound["weight"].target))
    bound.setdefault("transposed", node.target in _TRANSPOSED)
    layer = layer_from(bound, tuple(weight.shape), weight.dtype)
    if layer is not None:
        layer.weight = weight
        if isinstance(bound.get("bias"), fx.Node):
            layer.bias = model.get_parameter(str(bound["bias"].target))
        layer.train(model.training)
    return layer


def _free_name(model: fx.GraphModule, name: str, weights: set[str]) -> str:
    """A place for the new module: the weight's own module when it holds nothing else, else beside it."""
    modules = dict(model.named_modules())
    holder = modules.get(name)
    if holder is not None and name and not holder._modules:
        held = {f"{name}.{n}" for n in (*holder._parameters, *holder._buffers)}
        if held <= weights:
            return name
    return f"{name}_prism"
