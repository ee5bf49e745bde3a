"""An `ExportedProgram` as the scan reads it: a module that runs, its example inputs, and names for what it ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from .capture import Capture, capture_all
from .exported import module_of_node
from .inputs import ExampleInputs, noise
from .inputs.example_inputs import given_inputs

#: How far ahead a recorded operator is looked for among the program's.
_AHEAD = 64


def capture_program(
    program: ExportedProgram,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    methods: Iterable[str] | None = None,
) -> tuple[fx.GraphModule, Capture]:
    """The program as a module that holds the program's own tensors, and the capture of its one call.

    Args:
        args, kwargs: example inputs; the program's own, or ones of its shapes, when both are None.
        methods: `forward`, or nothing.

    Raises:
        CaptureError: another method is asked for, or the program does not run on the inputs.
    """
    if other := [name for name in methods or () if name != "forward"]:
        raise CaptureError(f"an exported program has one call and no method {other[0]!r}")
    module = program_module(program)
    given = given_inputs(args, kwargs) or program_inputs(program)
    capture = capture_all(module, given.args, given.kwargs)
    for _, graph in capture.graphs:
        _name_nodes(graph, program)
    return module, capture


def program_module(program: ExportedProgram) -> fx.GraphModule:
    """The program as a `GraphModule` named after the class it was exported from; tied weights are one again."""
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    first: dict[Any, Tensor] = {}
    for owner in module.modules():
        slots: dict[str, Any] = owner._parameters
        for name, parameter in slots.items():
            if parameter is not None:
                slots[name] = first.setdefault(memory(parameter), parameter)
    module.__class__.__name__ = _class_name(program)
    return module


def program_inputs(program: ExportedProgram) -> ExampleInputs:
    """The inputs a program was exported with, or noise of the shapes it notes."""
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        return ExampleInputs(tuple(args), dict(kwargs))
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    users = [s.arg for s in program.graph_signature.input_specs if s.kind == InputKind.USER_INPUT]
    leaves = [_sample(values[arg.name]) if values.get(arg.name) is not None else getattr(arg, "value", None)
              for arg in users]  # fmt: skip
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return ExampleInputs(tuple(args), dict(kwargs))


def memory(tensor: Tensor) -> Any:
    """What two names of one tensor have in common; a file read back makes an object for each name."""
    if tensor.is_meta or not tensor.numel() or tensor.layout is not torch.strided:
        return id(tensor)
    place = tensor.data_ptr(), tensor.untyped_storage().data_ptr()
    return (*place, tensor.dtype, tuple(tensor.shape), tensor.stride())


def first_names(program: ExportedProgram) -> dict[str, str]:
    """The first name of each module that holds parameters: one that was registered twice has several."""
    held: dict[str, list[Any]] = {}
    for name, tensor in program.state_dict.items():
        owner, _, leaf = name.rpartition(".")
        held.setdefault(owner, []).append((leaf, memory(tensor)))
    first: dict[Any, str] = {}
    return {name: first.setdefault(tuple(sorted(content)), name) for name, content in held.items()}


def _sample(value: Any) -> Any:
    """A value for an input of which only the shape is known; sizes that may change take the example's."""
    if not isinstance(value, Tensor):
        return hint(value)
    sizes = [hint(size) for size in value.shape]
    return noise(*sizes).to(value.dtype) if value.is_floating_point() else torch.zeros(sizes, dtype=value.dtype)


def hint(size: Any) -> Any:
    """The number that stands for a size that may change; any other value itself."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _class_name(program: ExportedProgram) -> str:
    """The class that was exported, where the nodes remember it."""
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if path == "":
                name = str(getattr(kind, "__qualname__", kind)).rpartition(".")[2]
                return name if name.isidentifier() else "ExportedProgram"
    return "ExportedProgram"


def _name_nodes(recorded: fx.Graph, program: ExportedProgram) -> None:
    """Say of each recorded operator which of the original's modules ran it: a program is flat, but remembers.

    What ran in the body of a higher-order operator (a region without gradients, a branch) is marked `enclosed`.
    """
    source = list(_operators(program.graph, program.graph_module, False))
    first = first_names(program)
    begun: dict[str, tuple[str, int]] = {}
    calls: dict[str, int] = {}
    position = 0
    for node in recorded.nodes:
        ahead = range(position, min(position + _AHEAD, len(source)))
        found = next((i for i in ahead if source[i][0].target is node.target), None)
        if node.op != "call_function" or found is None:
            continue
        position = found + 1
        original, enclosed = source[found]
        key, name = module_of_node(original)
        name = first.get(name, name)
        if key not in begun:
            begun[key] = (name, calls.get(name, 0))
            calls[name] = calls.get(name, 0) + 1
        if name:
            node.meta.update(module=begun[key][0], call=begun[key][1])
        if enclosed:
            node.meta["enclosed"] = True


def _operators(graph: fx.Graph, owner: fx.GraphModule, enclosed: bool) -> Iterator[tuple[fx.Node, bool]]:
    """The operators of a graph in the order they run, those in the bodies of higher-order ones in their place."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        yield node, enclosed
        for operand in node.all_input_nodes:
            body = getattr(owner, str(operand.target), None) if operand.op == "get_attr" else None
            if isinstance(body, fx.GraphModule):
                yield from _operators(body.graph, body, True)
