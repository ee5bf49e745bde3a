"""An ONNX file of a model's method: standard operators alone, weights as few as the model has."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ConversionError, OutputError, one_line
from ..kernels.torch.forms import Form, counted
from .entry import Entry, program_of

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
        from onnxscript import ir

        from .onnx_graph import forget_sources, name_sizes, simplify
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
    simplify(model)
    forget_sources(model)
    name_sizes(model)
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
