"""`torch.export` as a source of graphs, brought to the form the recorder makes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .inputs import ExampleInputs, tensors_in


class _Method(nn.Module):
    """`forward` is another module's method, and returns a flat list of tensors."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self._method = method

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        return list(tensors_in(getattr(self.model, self._method)(*args, **kwargs)))


def export_graph(model: nn.Module, method: str, inputs: ExampleInputs) -> fx.Graph:
    """`torch.export(strict=False)` of `model.<method>` as a graph like the recorder's; errors come through."""
    with torch.no_grad():
        exported = torch.export.export(_Method(model, method), inputs.args, inputs.kwargs, strict=False)
    if any(n.op == "call_function" and getattr(getattr(n.target, "_schema", None), "is_mutable", False)
           for n in exported.graph.nodes):  # fmt: skip
        exported = exported.run_decompositions({})  # in-place writes become values; nothing is decomposed
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    names = dict(model.named_parameters(remove_duplicate=False))
    signature = exported.graph_signature
    weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    weights.update(signature.inputs_to_lifted_tensor_constants)
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    modules = _Modules(model)
    for node in exported.graph.nodes:
        if node in env:  # a result of what was copied in its place
            continue
        if node.op == "placeholder" and node.name in weights:
            target = weights[node.name].removeprefix("model.")
            made = graph.create_node("get_attr", target)
            if target in names:
                made.meta["parameter"] = tuple(aliases[id(names[target])])
        elif node.op == "output":
            flat = [env[n] for n in pytree.tree_leaves(node.args) if isinstance(n, fx.Node)]
            mutated = len(signature.output_specs) - len(signature.user_outputs)
            graph.output(tuple(flat[mutated:]))
            break
        elif node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
            _inline(graph, node, exported.graph_module, env, modules)
            continue
        else:
            made = graph.node_copy(node, lambda n: env[n])
        modules.describe(made, node)
        env[node] = made
    return graph


def module_of_node(node: fx.Node) -> tuple[str, str]:
    """The call of a module that a node of an exported program ran in, as its key, and the module's name."""
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    return (stack[-1][0], stack[-1][1][0].split("@")[0]) if stack else ("", "")


def _inline(
    graph: fx.Graph,
    node: fx.Node,
    root: fx.GraphModule,
    env: dict[fx.Node, Any],
    modules: _Modules,
) -> None:
    """Copy the body of a higher-order operator (such as `no_grad`) in its place."""
    body_node = next(a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr")
    body = root.get_submodule(str(body_node.target))
    operands = [env[a] for a in node.args if isinstance(a, fx.Node) and a is not body_node]
    inner: dict[fx.Node, Any] = {}
    placeholders = iter(operands)
    for child in body.graph.nodes:  # type: ignore[union-attr]
        if child.op == "placeholder":
            inner[child] = next(placeholders)
        elif child.op == "output":
            results = [inner[n] for n in child.args[0]]
        else:
            inner[child] = graph.node_copy(child, lambda n: inner[n])
            modules.describe(inner[child], child)
    # Users of the operator read its results by index, and now find them directly.
    env[node] = node
    for user in node.users:
        env[user] = results[user.args[1]]  # type: ignore[index]


class _Modules:
    """Which module a node ran in, and for which time, from the stack that export leaves on it."""

    def __init__(self, model: nn.Module) -> None:
        first = {id(module): name for name, module in model.named_modules()}
        self._names = {name: first[id(m)] for name, m in model.named_modules(remove_duplicate=False)}
        self._calls: Counter[str] = Counter()
        self._running: dict[str, tuple[str, int]] = {}

    def describe(self, made: fx.Node, node: fx.Node) -> None:
        """Give `made` the `meta` that the recorder gives, from `node`'s own."""
        first = next((t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)), None)
        key, path = module_of_node(node)
        name = path.removeprefix("model").removeprefix(".")
        if key not in self._running:
            module = self._names.get(name, name)
            self._running[key] = (module, self._calls[module])
            self._calls[module] += 1
        made.meta = {k: v for k, v in made.meta.items() if k == "parameter"}
        made.meta.update(module=self._running[key][0], call=self._running[key][1])
        if first is not None:
            made.meta.update(shape=tuple(first.shape), dtype=first.dtype)
