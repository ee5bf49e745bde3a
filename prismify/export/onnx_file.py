"""An ONNX file of a model's method: standard operators alone, weights as few as the model has."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ConversionError, OutputError, one_line
from ..kernels.torch.forms import Form, counted
from .entry import Entry, program_of

#: Constants are folded where little goes in and little comes out: a band of weights is left to the runtime.
_FOLDED_IN, _FOLDED_OUT = 64, 256
#: What axes are called, by how many there are.
_SIZES = {
    1: ("batch",),
    2: ("batch", "length"),
    3: ("batch", "length", "channels"),
    4: ("batch", "channels", "height", "width"),
    5: ("batch", "channels", "frames", "height", "width"),
}
_NEEDED = "onnx and onnxscript: pip install 'prismify[onnx]'"


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        path: the file; larger weights than 2 GB lie beside it.
        size_bytes: of all that was written.
        opset: of the standard operators.
        inputs, outputs: name -> axes, a number or the name of a size that is open.
        forms: form -> how many operators are written so.
        nodes: in the graph.
        entry: what was exported.
    """

    path: Path
    size_bytes: int
    opset: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    forms: dict[str, int]
    nodes: int
    entry: Entry

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        own = {"file": str(self.path), "bytes": self.size_bytes, "opset": self.opset, "nodes": self.nodes}
        return {**own, "inputs": self.inputs, "outputs": self.outputs, "forms": self.forms}


def write_onnx(
    entry: Entry,
    path: Path,
    *,
    form: Form = "auto",
    dynamic: bool = False,
    opset: int | None = None,
) -> Written:
    """Write a method of a model as ONNX, by torch's exporter.

    Args:
        dynamic: leave every size open that the model leaves open (batch, height, width); else they are the example's.
        form: how the operators are written; "auto" chooses for each.
        opset: version of the standard operators; torch's choice by default.

    Raises:
        ConversionError: onnx is not installed, or the model cannot be exported; the message says why in one line.
        OutputError: the file cannot be written.
    """
    try:
        from onnxscript import ir, optimizer
    except ImportError as error:
        raise ConversionError(f"ONNX files need {_NEEDED}") from error
    with counted() as forms:
        program = program_of(entry, form, dynamic=dynamic)
    try:
        made: Any = torch.onnx.export(
            program,
            input_names=entry.input_names(),
            output_names=_output_names(entry),
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
    except Exception as error:  # whatever the exporter says of somebody's model
        what = f"{type(entry.model).__name__}.{entry.method}"
        raise ConversionError(f"{what} cannot be written as ONNX: {one_line(error.__cause__ or error)}") from error
    model: ir.Model = made.model
    if opset is not None and model.opset_imports[""] != opset:
        raise ConversionError(f"torch writes opset {model.opset_imports['']} where {opset} is asked for: leave it out")
    optimizer.optimize(model, input_size_limit=_FOLDED_IN, output_size_limit=_FOLDED_OUT)
    _forget_sources(model)
    _name_sizes(model)
    size = _save(made, path)
    return Written(
        path,
        size,
        model.opset_imports[""],
        {str(value.name): _axes(value) for value in model.graph.inputs},
        {str(value.name): _axes(value) for value in model.graph.outputs},
        dict(forms),
        len(list(model.graph.all_nodes())),
        entry,
    )


def _output_names(entry: Entry) -> list[str]:
    taken = set(entry.input_names())
    with torch.no_grad():
        names = entry.named_outputs(*entry.example.args)
    return [f"{name}_out" if name in taken else name for name in names]


def _forget_sources(model: Any) -> None:
    """Drop what the exporter notes of every node: lines of Python, which are most of a small model's file."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _name_sizes(model: Any) -> None:
    """Call open sizes of the inputs by what they are, in all shapes of the graph: torch numbers them."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if re.fullmatch(r"s\d+", str(size)) and str(size) not in names:
                wanted = _SIZES[len(value.shape)][axis] if len(value.shape) in _SIZES else "size"
                names[str(size)] = wanted if wanted not in names.values() else f"{wanted}_{len(names)}"
    written = re.compile(r"\bs\d+\b")
    nodes = [output for node in model.graph.all_nodes() for output in node.outputs]
    for value in (*model.graph.inputs, *nodes) if names else ():
        for axis, size in enumerate(value.shape or ()):
            text = written.sub(lambda found: names.get(found[0], found[0]), str(size))
            if text != str(size):
                value.shape[axis] = text


def _axes(value: Any) -> list[int | str]:
    """Sizes of a tensor; the exporter writes some that are fixed as if they had a name."""
    return [int(text) if (text := str(size)).isdigit() else text for size in value.shape or ()]


def _save(made: Any, path: Path) -> int:
    """Write beside the place, then move there; returns how many bytes."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as draft:
            made.save(Path(draft) / path.name)
            files = sorted(Path(draft).iterdir(), key=lambda file: file.name == path.name)  # what it names goes first
            size = sum(file.stat().st_size for file in files)
            for file in files:
                os.replace(file, path.parent / file.name)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return size
