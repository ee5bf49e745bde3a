"""Rewrite an `ExportedProgram`: operators with a weight become the replacement's subgraph, in plain torch operators.

Nothing is exported again: kept nodes, tensors, sizes that may change, and the calling convention stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, TensorArgument

from ..errors import ConversionError, one_line
from ..graph.exported import module_of_node
from ..graph.program import first_names, hint, memory
from .graph import bound_arguments, is_operator

_DECOMPOSED = torch.ops.aten.convolution.default


@dataclass
class _Draft:
    """A program that is being rewritten; `specs` follows the order of the graph's placeholders."""

    program: ExportedProgram
    module: fx.GraphModule
    state: dict[str, Any]
    specs: list[InputSpec]
    mode: Any  # of the program's fake tensors
    first: dict[str, str]  # see `first_names`
    nodes: dict[str, list[fx.Node]] = field(default_factory=dict)
    subgraphs: dict[Any, ExportedProgram] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    def placeholders(self) -> dict[str, fx.Node]:
        """By the names in the signature, which are not always the nodes' own."""
        nodes = (node for node in self.graph.nodes if node.op == "placeholder")
        return {spec.arg.name: node for spec, node in zip(self.specs, nodes, strict=True)}

    def placeholder(self, target: str) -> fx.Node | None:
        """The placeholder that brings in the parameter of that name."""
        spec = next((s for s in self.specs if s.target == target and s.kind == InputKind.PARAMETER), None)
        return self.placeholders()[spec.arg.name] if spec is not None else None

    def parameter(self, node: Any) -> str | None:
        """The name of the parameter that a placeholder brings in."""
        if not isinstance(node, fx.Node) or node.op != "placeholder":
            return None
        name = next(name for name, known in self.placeholders().items() if known is node)
        return next((s.target for s in self.specs if s.arg.name == name and s.kind == InputKind.PARAMETER), None)


def rewrite_program(program: ExportedProgram, new: dict[str, nn.Module], *, share: bool = False) -> ExportedProgram:
    """A program in which each named layer's operators compute its new module; `program` stays as it is.

    Args:
        new: replacements by the name of the layer, as a plan names it.
        share: kept tensors are the original's own; otherwise copies.

    Raises:
        ConversionError: a replacement would fix a size that may change, or changes the shape of a result.
    """
    state = dict(program.state_dict) if share else _copied(program.state_dict)
    module, specs = copy.deepcopy(program.graph_module), list(program.graph_signature.input_specs)
    for node, original in zip(module.graph.nodes, program.graph.nodes, strict=True):
        node.name = original.name  # a copy renames what is also a name of Python's, as `input` is
    draft = _Draft(program, module, state, specs, _fake_mode(program), first_names(program))
    for node in draft.graph.nodes:
        if is_operator(node) and (weight := draft.parameter(bound_arguments(node).get("weight"))):
            for name in _rows(draft, node, weight) & new.keys():
                draft.nodes.setdefault(name, []).append(node)
    for name in new:
        if name not in draft.nodes:
            raise ConversionError(f"{name}: none of the program's operators is this layer; keep it")
    doomed = {node for nodes in draft.nodes.values() for node in nodes}
    old = {p for node in doomed for p in map(draft.parameter, bound_arguments(node).values()) if p}
    for name, module in new.items():
        parameters = _new_parameters(draft, name, module, doomed)
        for node in draft.nodes[name]:
            _replace(draft, node, module, parameters)
    _drop_unused(draft, old)
    draft.graph.lint()
    draft.module.recompile()
    return _finished(draft, share)


def _fake_mode(program: ExportedProgram) -> Any:
    for node in program.graph.nodes:
        if (mode := getattr(node.meta.get("val"), "fake_mode", None)) is not None:
            return mode
    raise ConversionError("the program notes no shapes: export it again")


def _rows(draft: _Draft, node: fx.Node, weight: str) -> set[str]:
    """The layers that an operator may belong to: where several share its weight, the one that ran it."""
    same = memory(draft.program.state_dict[weight])
    aliases = {n for n, t in draft.program.state_dict.items() if memory(t) == same}
    rows = {name.removesuffix(".weight") for name in aliases}
    ran = draft.first.get(module_of_node(node)[1])
    return {ran} if ran is not None and ran in rows else rows


def _new_parameters(draft: _Draft, name: str, module: nn.Module, doomed: set[fx.Node]) -> dict[str, fx.Node]:
    """The placeholders of a new module's parameters, by their names in it; renewed ones keep their places."""
    found: dict[str, fx.Node] = {}
    others = [other for other, first in draft.first.items() if first == name != other]
    for own, parameter in module.named_parameters():
        target = f"{name}.{own}"
        node = draft.placeholder(target)
        if node is not None and not set(node.users) <= doomed:  # something that stays reads the old one as well
            target, node = f"{name}_prism.{own}", None
        elif node is None and target in draft.state:
            target = f"{name}_prism.{own}"
        found[own] = node or _add_placeholder(draft, target)
        _renew(draft, target, found[own], parameter)
        for other in others:  # the same module under another name
            alias = draft.placeholder(f"{other}.{own}")
            if alias is not None and set(alias.users) <= doomed:
                _renew(draft, f"{other}.{own}", alias, parameter)
    return found


def _renew(draft: _Draft, target: str, node: fx.Node, parameter: nn.Parameter) -> None:
    node.meta["val"] = draft.mode.from_tensor(parameter, static_shapes=True)
    draft.state[target] = parameter
    draft.fresh.add(target)


def _add_placeholder(draft: _Draft, target: str) -> fx.Node:
    """A placeholder for a parameter of that name, behind those of the other parameters."""
    known = draft.placeholders()
    index = sum(s.kind == InputKind.PARAMETER for s in draft.specs)
    following = known[draft.specs[index].arg.name] if index < len(draft.specs) else None
    with draft.graph.inserting_before(following or next(n for n in draft.graph.nodes if n.op != "placeholder")):
        node = draft.graph.placeholder("p_" + target.replace(".", "_"))
    node.target = node.name
    spec = InputSpec(kind=InputKind.PARAMETER, arg=TensorArgument(name=node.name), target=target)
    draft.specs.insert(index, spec)
    return node


def _replace(draft: _Draft, node: fx.Node, module: nn.Module, parameters: dict[str, fx.Node]) -> None:
    """Put a module's subgraph in the place of an operator."""
    data = bound_arguments(node)["input"]
    subgraph = _subgraph(draft, node, module, data.meta["val"])
    signature = subgraph.graph_signature
    env: dict[fx.Node, Any] = {}
    keep = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "custom")}
    with draft.graph.inserting_before(node):
        for inner in subgraph.graph.nodes:
            if inner.op == "placeholder":
                own = signature.inputs_to_parameters.get(inner.name)
                env[inner] = data if own is None else parameters[own]
            elif inner.op == "output":
                result = env[inner.args[0][0]]
            else:
                made = env[inner] = draft.graph.node_copy(inner, lambda n: env[n])
                made.meta = dict(keep, val=_value(draft, made))
    was, now = node.meta["val"], result.meta["val"]
    if _sizes(was) != _sizes(now) or was.dtype != now.dtype:
        raise ConversionError(
            f"{node.name}: its result is {tuple(was.shape)}, that of its replacement {tuple(now.shape)}"
        )
    result.meta["val"] = was  # the same sizes, in the terms that the rest of the graph is written in
    node.replace_all_uses_with(result)
    draft.renamed[node.name] = result.name
    draft.graph.erase_node(node)


def _sizes(value: Tensor) -> list[tuple[int, bool]]:
    """Each size, and whether it may change."""
    return [(hint(size), isinstance(size, torch.SymInt)) for size in value.shape]


def _subgraph(draft: _Draft, node: fx.Node, module: nn.Module, value: Tensor) -> ExportedProgram:
    """A module exported by itself, for an input like `value`: what may change there may change here."""
    moving = tuple(isinstance(size, torch.SymInt) for size in value.shape)
    sizes = tuple(max(2, hint(s)) if moves else int(s) for s, moves in zip(value.shape, moving, strict=True))
    decomposed = node.target is _DECOMPOSED
    key = (type(module), str(module), value.dtype, sizes, moving, decomposed)
    if key not in draft.subgraphs:
        dynamic = ({axis: Dim.DYNAMIC for axis, moves in enumerate(moving) if moves} or None,)
        example = torch.empty(sizes, dtype=value.dtype, device=value.device)
        try:
            exported = torch.export.export(module, (example,), dynamic_shapes=dynamic, strict=False)
            draft.subgraphs[key] = exported.run_decompositions() if decomposed else exported
        except Exception as error:
            raise ConversionError(f"{node.name}: its replacement cannot be exported ({one_line(error)})") from error
        kinds = {spec.kind for spec in draft.subgraphs[key].graph_signature.input_specs}
        if not kinds <= {InputKind.PARAMETER, InputKind.USER_INPUT}:
            raise ConversionError(f"{node.name}: its replacement holds more than parameters")
    return draft.subgraphs[key]


def _value(draft: _Draft, node: fx.Node) -> Any:
    """What a node returns, on fake tensors of the program's own."""

    def value(argument: fx.Node) -> Any:
        return argument.meta["val"]

    args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    mode = draft.mode
    # Without the Python dispatcher composite operators fix the sizes they read; guards would bind the original too.
    with mode, torch.no_grad(), enable_python_dispatcher(), _no_guards(mode.shape_env):
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _no_guards(shape_env: Any) -> AbstractContextManager[None]:
    return nullcontext() if shape_env is None else shape_env.suppress_guards()


def _drop_unused(draft: _Draft, old: set[str]) -> None:
    """Forget the replaced parameters under all their names, where nothing reads them any more."""
    given, known = draft.program.state_dict, draft.placeholders()
    shared = {memory(given[name]) for name in old}
    for name in [n for n, tensor in given.items() if memory(tensor) in shared and n not in draft.fresh]:
        spec = next((s for s in draft.specs if s.target == name and s.kind == InputKind.PARAMETER), None)
        if spec is not None and known[spec.arg.name].users:
            continue
        if spec is not None:
            draft.graph.erase_node(known[spec.arg.name])
            draft.specs.remove(spec)
        del draft.state[name]


def _finished(draft: _Draft, share: bool) -> ExportedProgram:
    program = draft.program
    calls = copy.deepcopy(program.module_call_graph)
    outputs = copy.deepcopy(program.graph_signature.output_specs)
    signatures = [entry.signature for entry in calls if entry.signature is not None]
    named = [*(spec.arg for spec in outputs), *(arg for s in signatures for arg in (*s.inputs, *s.outputs))]
    for argument in named:
        if getattr(argument, "name", None) in draft.renamed:
            argument.name = draft.renamed[argument.name]
    return ExportedProgram(
        root=draft.module,
        graph=draft.graph,
        graph_signature=ExportGraphSignature(input_specs=draft.specs, output_specs=outputs),
        state_dict=draft.state,
        range_constraints=copy.deepcopy(program.range_constraints),
        module_call_graph=calls,
        example_inputs=program.example_inputs,
        constants=dict(program.constants) if share else _copied(program.constants),
        verifiers=program.verifiers,
    )


def _copied(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of tensors, those that were one in memory as one; anything else as it is."""
    made: dict[Any, Any] = {}
    copies: dict[str, Any] = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            copies[name] = value
            continue
        if memory(value) not in made:
            copied = value.detach().clone(memory_format=torch.preserve_format)
            parameter = isinstance(value, nn.Parameter)
            made[memory(value)] = nn.Parameter(copied, value.requires_grad) if parameter else copied
        copies[name] = made[memory(value)]
    return copies
