"""The facts about every convolution, linear and attention layer of a model: what it is, where it stands,
what it costs, and what would keep it from being replaced. Nothing here decides."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ..graph import Attention, Capture, LayerUse, Role, find_attention, merge_roles
from ..graph.dataflow import roles
from ..graph.dataflow.flow import drew, operands, operator_name, shape
from ..graph.dataflow.shifts import removed_by
from ..graph.stand_in import layer_of
from ..layers import LAYERS, PrismMultihead, operator_for
from .count import node_macs, unique
from .layer import Inventory, Layer
from .obstacles import class_name, is_layer, kind_of, obstacle_of, widths_of
from .projections import AttentionPart, attention_parts, in_projections
from .weight_uses import uses_outside
from .widths import widths_of_model

#: Kinds of layers that have a row; the others count only in the model's totals.
_KINDS = ("convolution", "linear")


@dataclass
class _Uses:
    """What the graphs say about one layer, gathered over entry points and calls."""

    roles: list[Role] = field(default_factory=list)
    uses: list[LayerUse] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # modules that use the weight behind the owner's back
    partial: set[str] = field(default_factory=set)
    macs: int = 0
    input_numel: int = 0
    output_numel: int = 0
    numel_by_weight: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass
class _Context:
    """What every row is read against; `counted` grows as parameters find their first owner."""

    modules: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
    owners: dict[int, list[str]]
    parts: dict[str, AttentionPart]
    unseen: Role  # of a layer that no graph shows
    outside: dict[str, str]  # what uses a layer's weight without calling the layer
    training: set[str]  # modules that a call in training mode runs
    by_chance: set[int]  # parameters that reach a result when other random numbers are drawn, by id
    by_chance_in_training: set[int]
    proven: bool  # whether the graphs show every way of what a layer makes
    untrained: set[int]  # parameters that get no gradient from any result, by id
    some_train: bool  # whether any parameter is to be trained
    counted: set[int] = field(default_factory=set)


def inventory(model: nn.Module, capture: Capture) -> Inventory:
    """List every convolution, linear and attention layer of a captured (unwrapped) model."""
    modules = dict(model.named_modules())
    gathered: dict[str, _Uses] = defaultdict(_Uses)
    attentions: list[Attention] = []
    elsewhere = 0
    counted = _whole_model(capture)
    nodes: dict[fx.Node, str] = {}
    for entry, graph in capture.graphs:
        uses = roles(graph)
        attentions += find_attention(graph, uses)
        for use in uses:
            _gather(gathered, modules, use, entry.method in counted)
            if use.kind in _KINDS:
                nodes[use.node] = _row_name(use, modules)
        if entry.method in counted:
            layer_nodes = {use.node for use in uses if use.kind in _KINDS}
            elsewhere += sum(node_macs(n) for n in graph.nodes if n not in layer_nodes)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    context = _Context(
        modules,
        parameters,
        _owners(model),
        attention_parts(attentions, lambda use: _row_name(use, modules)),
        # Only where every method was captured is a layer that none of them shows known to be unused.
        unseen="dead" if capture.graphs and not capture.skipped else "unknown",
        outside=uses_outside(_all_graphs(capture), modules),
        training={str(n.meta.get("module")) for e in capture.entries if e.training for n in e.training.nodes},
        by_chance={id(parameters[name]) for name in capture.by_chance if name in parameters},
        by_chance_in_training={id(parameters[name]) for name in capture.by_chance_in_training if name in parameters},
        # Where values are real, Python may read them unseen; where it draws, other ways may be taken.
        proven=not capture.skipped
        and all(e.technique == "recorder on fake tensors" and e.graph and not drew(e.graph) for e in capture.entries),
        untrained=_untrained(model, capture),
        some_train=any(p.requires_grad for p in model.parameters()),
    )
    layers = [_layer(name, model, gathered.get(name, _Uses()), context) for name in _names(modules, gathered)]
    widths = widths_of_model((g for _, g in capture.graphs), nodes, layers, modules, proven=context.proven)
    return Inventory(tuple(layers), tuple(_once(attentions)), elsewhere, widths)


def _gather(gathered: dict[str, _Uses], modules: dict[str, nn.Module], use: LayerUse, counted: bool) -> None:
    if use.kind not in _KINDS:
        return
    name = _row_name(use, modules)
    found = gathered[name]
    owner = modules.get(name)
    within = use.module == _packed_around(name, modules)
    if use.module != name and is_layer(owner) and not isinstance(owner, nn.MultiheadAttention) and not within:
        found.foreign.append(use.module)
    found.roles.append(use.role)
    found.uses.append(use)
    # A weight that is put together at run time makes all its owners what the operator is.
    owners = {alias.rpartition(".")[0] for group in use.parameters[1:] for alias in group} - {name}
    for other in owners:
        if is_layer(modules.get(other)):
            gathered[other].roles.append(use.role)
    found.partial.update(use.partial)
    if counted:
        found.macs += node_macs(use.node)
        found.input_numel += prod(shape(use.data))
        found.output_numel += prod(shape(use.node))
        found.numel_by_weight[use.parameters[0][0].rpartition(".")[2]] += prod(shape(use.node))


def _packed_around(name: str, modules: dict[str, nn.Module]) -> str | None:
    """The packed attention whose output projection `name` is."""
    parent = name.rpartition(".")[0]
    return parent if isinstance(modules.get(parent), nn.MultiheadAttention) else None


def _row_name(use: LayerUse, modules: dict[str, nn.Module]) -> str:
    """The layer module that ran the operator, else the owner of its weight, else the weight's own name."""
    if is_layer(modules.get(use.module)) and not isinstance(modules[use.module], nn.MultiheadAttention):
        return use.module
    rows = []
    for alias in use.parameters[0]:
        owner, _, leaf = alias.rpartition(".")
        if ".parametrizations." in alias:
            rows.append(alias.split(".parametrizations.")[0])
        else:
            rows.append(owner if owner and (leaf == "weight" or is_layer(modules.get(owner))) else alias)
    return use.module if use.module in rows else rows[0]


def _adapter_around(name: str, modules: dict[str, nn.Module]) -> str | None:
    """The adapter (peft's protocol: a `base_layer` that it can `merge` into) that a layer is part of."""
    parents = name.split(".")[:-1]
    for length in range(len(parents), 0, -1):
        parent = modules.get(".".join(parents[:length]))
        if isinstance(getattr(parent, "base_layer", None), nn.Module) and callable(getattr(parent, "merge", None)):
            return ".".join(parents[:length])
    return None


def _names(modules: dict[str, nn.Module], gathered: dict[str, _Uses]) -> list[str]:
    """Modules in the order they are registered, then the weights that only the graphs know."""
    names = [name for name, module in modules.items() if is_layer(module) or name in gathered]
    return names + [name for name in gathered if name not in modules]


def _whose(
    name: str, model: nn.Module, found: _Uses, context: _Context
) -> tuple[nn.Module | None, list[Tensor], str | None]:
    """The layer's module where it has one, the parameters that are its own, and what keeps that module in its place."""
    module: nn.Module | None = context.modules.get(name)
    if not is_layer(module):
        first = found.uses[0]
        applied = f"{class_name(module or model)} applies the weight itself ({operator_name(first.node)})"
        if isinstance(module, LAYERS):
            applied = f"a {class_name(module)} already"
        own = _operator_parameters(found.uses, context.parameters)
        if isinstance(model, fx.GraphModule):
            module, obstacle = _graph_layer(found.uses, applied)
            return module, own, obstacle
        return None, own, applied
    assert module is not None
    within = _packed_around(name, context.modules)
    obstacle = obstacle_of(module if within is None else context.modules[within])
    if isinstance(context.modules.get(name.rpartition(".")[0]), PrismMultihead) and not name.endswith("out_proj"):
        obstacle = "an earlier conversion of its attention kept it"
    if (adapter := _adapter_around(name, context.modules)) is not None:
        obstacle = f"it is part of the adapter {adapter}: merge that first (peft: merge_and_unload)"
    if within is not None and obstacle is not None:
        obstacle = f"{within or 'the model'} applies it and stays: {obstacle}"
    if found.foreign and obstacle is None:
        obstacle = f"its weight is used by {found.foreign[0] or 'the model'} without calling it"
    return module, _own_parameters(module), obstacle or context.outside.get(name)


def _layer(name: str, model: nn.Module, found: _Uses, context: _Context) -> Layer:
    module, own, obstacle = _whose(name, model, found, context)
    within = _packed_around(name, context.modules)
    first = found.uses[0] if found.uses else None
    if first is not None and first.modulated:
        obstacle = "its weight is computed from the data (modulated convolution)"
    if obstacle is None and own and all(id(t) in context.untrained for t in own):
        obstacle = "the model itself runs it without gradient (no_grad, detach, integers), so it could not be trained"
    fresh = [t for t in own if id(t) not in context.counted]
    context.counted.update(id(t) for t in own)
    kind, in_channels, out_channels, kernel, groups = _geometry(module, first)
    tied = sorted({o for t in own for o in context.owners.get(id(t), []) if o != name})
    role: Role = merge_roles(found.roles) if found.roles else "inner" if name in context.outside else context.unseen
    by_chance = any(id(t) in context.by_chance for t in own)
    return Layer(
        name=name,
        kind=kind,
        role=role if role != "dead" or not by_chance else "unknown",
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel,
        groups=groups,
        bias=any(getattr(module, name, None) is not None for name in ("bias", "in_proj_bias")),
        pointwise=module is not None and operator_for(module) == "Prism",
        parameters=sum(t.numel() for t in fresh),
        itemsize=own[0].element_size() if own else 4,
        obstacle=obstacle,
        frozen=context.some_train
        and any(t.dim() > 1 for t in own)
        and not any(t.requires_grad for t in own if t.dim() > 1),
        by_chance=by_chance,
        only_training=not found.uses
        and (name in context.training or any(id(t) in context.by_chance_in_training for t in own)),
        owns=frozenset("weight" if t.dim() > 1 else "bias" for t in fresh),
        tied=tuple(tied) if context.modules.get(name) is module else (),
        attention=context.parts.get(name),
        within=within,
        projections=in_projections(module, found.numel_by_weight) if isinstance(module, nn.MultiheadAttention) else (),
        partial=tuple(sorted(found.partial)),
        removed_by=_removed_by(found.uses) if context.proven else (),
        bare=name in context.outside,
        calls=len(found.uses),
        input_shape=shape(first.data) if first else None,
        output_shape=shape(first.node) if first else None,
        macs=found.macs,
        input_numel=found.input_numel,
        output_numel=found.output_numel,
    )


def _removed_by(uses: list[LayerUse]) -> tuple[str, ...]:
    """What takes a shift of a layer's whole output away again, at every place where it runs; else nothing."""
    found = []
    for use in uses:
        found.append(removed_by(use.node))
        if not found[-1]:
            return ()
    return tuple(sorted(frozenset().union(*found)))


def _own_parameters(module: nn.Module) -> list[Tensor]:
    """What a layer module holds itself, parametrised or not."""
    own = [p for p in module._parameters.values() if p is not None]
    parametrised = getattr(module, "parametrizations", None)
    return unique([*own, *(parametrised.parameters() if parametrised is not None else ())])


def _operator_parameters(uses: list[LayerUse], parameters: dict[str, nn.Parameter]) -> list[Tensor]:
    """The weights and the biases of bare operators."""
    names = [group[0] for use in uses for group in use.parameters]
    for use in uses:
        names += [n.meta["parameter"][0] for n in operands(use.node) if "parameter" in n.meta]
    return unique(parameters[name] for name in names)


def _graph_layer(uses: list[LayerUse], otherwise: str) -> tuple[nn.Module | None, str | None]:
    """The module that an operator of a GraphModule amounts to, and what stands in its way."""
    stand_ins = [layer_of(use.node) for use in uses]
    first = stand_ins[0]
    if first is None:
        return None, otherwise
    readers = {user for use in uses for user in use.weight.users}
    if any(str(other) != str(first) for other in stand_ins) or readers != {use.node for use in uses}:
        return first, "its weight is used in more than one way"
    return first, obstacle_of(first)


def _geometry(module: nn.Module | None, use: LayerUse | None) -> tuple[str, int, int, tuple[int, ...], int]:
    """(kind, C_in, C_out, kernel size, groups), from the module or, failing one, from the operator."""
    if module is not None:
        groups = module.groups if isinstance(module, _ConvNd) else 1
        return kind_of(module), *widths_of(module), tuple(map(int, getattr(module, "kernel_size", ()))), int(groups)
    assert use is not None
    weight, name = shape(use.weight), operator_name(use.node)
    if use.kind == "convolution":
        axis = 1 if len(shape(use.node)) > 2 else 0
        widths = shape(use.data)[axis], shape(use.node)[axis]
        kind = name if name.startswith("conv") else f"conv{len(weight) - 2}d"
        return kind, *widths, weight[2:], max(1, widths[0] // max(1, weight[1]))
    return "linear", shape(use.data)[-1], shape(use.node)[-1], (), 1


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Which modules hold each parameter."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)].append(name)
    return owners


def _whole_model(capture: Capture) -> set[str]:
    """The entry points whose operators together are one pass: `forward`, else all of them."""
    methods = {entry.method for entry, _ in capture.graphs}
    return {"forward"} if "forward" in methods else methods


def _all_graphs(capture: Capture) -> list[fx.Graph]:
    """The graphs of every entry point, in evaluation and in training."""
    return [g for entry in capture.entries for g in (entry.graph, entry.training) if g is not None]


def _untrained(model: nn.Module, capture: Capture) -> set[int]:
    """The parameters that no result of a captured method gives a gradient, by id; none where that is not known.

    Of a model that turns gradients off as a whole, nothing can be said.
    """
    seen = [entry.trained for entry in capture.entries]
    if not seen or None in seen or capture.skipped or not any(seen):
        return set()
    trained = frozenset().union(*(names for names in seen if names is not None))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {id(p) for p in parameters.values()} - {id(parameters[name]) for name in trained if name in parameters}


def _once(attentions: list[Attention]) -> list[Attention]:
    """One entry for each place: encode and decode show again what forward showed."""
    seen: dict[tuple[str, tuple[str, ...]], Attention] = {}
    for attention in attentions:
        seen.setdefault((attention.module, tuple(u.module for _, u in attention.parts)), attention)
    return list(seen.values())
