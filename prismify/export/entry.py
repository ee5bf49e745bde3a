"""One method of a model as another runtime sees it: tensors in, tensors out, each with a name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from ..errors import ConversionError, RecipeError, one_line
from ..graph import ExampleInputs
from ..graph.inputs import named_tensors, tensors_in
from ..graph.latents import decode, encode
from ..kernels.torch.forms import Form, written_as

#: Under what name torch puts the check of open sizes into a program.
_GUARDS = "_guards_fn"


class Entry(nn.Module):
    """A method whose outputs are a tuple of tensors; those of `encode` are read as mean and log-variance.

    All inputs are given by their places, which every exporter follows: first those that the method is given so, then
    those that it is given by name.

    Args:
        model: is put into evaluation mode.
        method: "forward", or another that takes tensors.
        inputs: example inputs, real tensors.

    Raises:
        ConversionError: the model has no such method.
    """

    def __init__(self, model: nn.Module, method: str, inputs: ExampleInputs) -> None:
        super().__init__()
        if not callable(getattr(model, method, None)):
            raise ConversionError(f"{type(model).__name__} has no method {method!r} to export")
        self.model, self.method = model.eval(), method
        self.given = inputs
        self.example = ExampleInputs((*inputs.args, *inputs.kwargs.values()))
        self._keywords = tuple(inputs.kwargs)

    def forward(self, *args: Any) -> tuple[Tensor, ...]:
        return tuple(self.named_outputs(*args).values())

    def named_outputs(self, *args: Any) -> dict[str, Tensor]:
        """The outputs by name, each once; an input that is passed on is none."""
        given = [value for value in args if value is not None]
        if self.method in ("encode", "decode") and _has_both(self.model) and len(given) == 1:
            try:
                return _of_half(self.model, self.method, given[0])
            except RecipeError:  # no autoencoder of images: its tensors as they come
                pass
        places = len(args) - len(self._keywords)
        named = dict(zip(self._keywords, args[places:], strict=True))
        inputs = {id(tensor) for tensor in tensors_in(args)}
        found: dict[int, tuple[str, Tensor]] = {}
        for path, tensor in named_tensors(getattr(self.model, self.method)(*args[:places], **named)):
            if id(tensor) not in inputs and id(tensor) not in found:
                found[id(tensor)] = _name(path, "output"), tensor
        if not found:
            raise ConversionError(f"{type(self.model).__name__}.{self.method} returns no tensor but its inputs")
        return _apart(found.values())

    def input_names(self) -> list[str]:
        """A name for every tensor among the inputs, in order: the method's own where it has one."""
        own = [p.name for p in inspect.signature(getattr(self.model, self.method)).parameters.values()]
        count = len(self.example.args) - len(self._keywords)
        names = [own[i] if i < len(own) else f"input_{i}" for i in range(count)] + list(self._keywords)
        return [_name(path, "input") for path, _ in named_tensors(dict(zip(names, self.example.args, strict=True)))]


def program_of(entry: Entry, form: Form | None, *, dynamic: bool = False) -> ExportedProgram:
    """The method as an exported program in torch's own operators.

    Args:
        form: how operators are written; None as plain torch runs them best.
        dynamic: leave every size open that the model leaves open.

    Raises:
        ConversionError: `torch.export` cannot follow the model, or no size is open; the message says it in one line.
    """
    args = several(entry.example).args if dynamic else entry.example.args
    shapes = _open(entry, args) if dynamic else None
    try:
        with torch.no_grad(), written_as(form):
            program = _bare(torch.export.export(entry, args, dynamic_shapes=shapes, strict=False))
    except ConversionError:
        raise
    except Exception as error:  # whatever torch.export says of somebody's model
        what = f"{type(entry.model).__name__}.{entry.method}"
        raise ConversionError(f"{what} cannot be exported: torch.export says: {one_line(error)}") from error
    if dynamic and not open_axes(program):
        raise ConversionError(f"{type(entry.model).__name__}.{entry.method} fixes all its sizes: leave --dynamic out")
    return program


def open_axes(program: ExportedProgram) -> dict[str, list[int]]:
    """By the name of a placeholder, the axes whose size was left open."""
    found = {}
    users = {spec.arg.name for spec in program.graph_signature.input_specs if spec.target is None}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in users and isinstance(node.meta.get("val"), Tensor):
            axes = [i for i, size in enumerate(node.meta["val"].shape) if not str(size).isdigit()]
            if axes:
                found[node.name] = axes
    return found


def several(inputs: ExampleInputs) -> ExampleInputs:
    """The inputs with two of everything that there is one of, along the first axis: one is a size torch fixes."""
    return inputs.map(lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t)


def _bare(program: ExportedProgram) -> ExportedProgram:
    """Without lines of Python at every node, and without the check of open sizes, a call that no exporter follows."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        node.meta.pop("stack_trace", None)
        if node.op == "call_module" and node.target == _GUARDS and not node.users:
            graph.erase_node(node)
            delattr(program.graph_module, _GUARDS)
    program.graph_module.recompile()
    return program


def _open(entry: Entry, args: tuple[Any, ...]) -> Any:
    """Every axis of every tensor open, as far as torch finds that the model leaves it so."""
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in tensors_in(args):
        if tensor.dim():
            shapes[tensor] = (Dim.AUTO,) * tensor.dim()
    return shapes.dynamic_shapes(entry, args)


def _has_both(model: Any) -> bool:
    return callable(getattr(model, "encode", None)) and callable(getattr(model, "decode", None))


def _of_half(model: Any, method: str, given: Any) -> dict[str, Tensor]:
    if method == "decode":
        return {"sample": decode(model, given)[0]}
    latents = encode(model, given)
    found = {"mean": latents.mean, "log_variance": latents.log_variance}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _apart(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """By name; names that are taken get a number."""
    named: dict[str, Tensor] = {}
    for name, tensor in pairs:
        number = next(n for n in count() if (f"{name}_{n}" if n else name) not in named)
        named[f"{name}_{number}" if number else name] = tensor
    return named


def _name(path: tuple[str, ...], otherwise: str) -> str:
    return re.sub(r"\W+", "_", "_".join(path)).strip("_") or otherwise
