"""Uses of a layer's weight or bias outside the layer's own call: whoever makes them expects the dense one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from ..graph.dataflow.flow import operands, operator_name
from .obstacles import is_layer

#: Operators that ask a tensor for its type or place only, where it is not the first operand.
_ASKED = {"to", "type_as", "_to_copy"}


def uses_outside(graphs: Iterable[fx.Graph], modules: dict[str, nn.Module]) -> dict[str, str]:
    """Layers whose parameters a model reads or writes by itself, with what it does to them in words."""
    found: dict[str, str] = {}
    held = _layers_by_parameter(modules)
    for graph in graphs:
        for node in graph.nodes:
            owners = {alias.rpartition(".")[0] for alias in node.meta.get("parameter", ())}
            # A closure, a partial function or compiled code holds the very tensor, whatever stands in for it elsewhere.
            owners |= held.get(node.meta.get("identity"), set())
            for owner in owners:
                if not is_layer(modules.get(owner)):
                    continue
                # A packed attention applies its output projection without calling it; tied layers share a weight.
                around = owner.rpartition(".")[0]
                homes = owners | ({around} if isinstance(modules.get(around), nn.MultiheadAttention) else set())
                if node.meta.get("written"):
                    found[owner] = "its weight is written by the model itself, in each call"
                for user in node.users:
                    where = str(user.meta.get("module", ""))
                    if where not in homes and not _only_asks(user, node):
                        found.setdefault(owner, f"its weight is used by {where or 'the model'} without calling it")
    return found


def _layers_by_parameter(modules: dict[str, nn.Module]) -> dict[int | None, set[str]]:
    found: dict[int | None, set[str]] = {}
    for name, module in modules.items():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), set()).add(name)
    return found


def _only_asks(user: fx.Node, node: fx.Node) -> bool:
    found = operands(user)
    return user.op == "call_function" and operator_name(user) in _ASKED and bool(found) and found[0] is not node
