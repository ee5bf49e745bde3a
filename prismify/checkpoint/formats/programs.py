"""Exported programs (`.pt2`): read without running anything they bring along, written as torch writes them."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from ...errors import OutputError, SourceError, one_line
from ...families import family
from ...graph import ExampleInputs
from ...graph.program import memory
from .pickles import is_torchscript
from .program_check import check_program
from .zips import is_archive

PROGRAM_SUFFIX = ".pt2"
#: Kernels choose by alignment, and round differently then.
_ALIGNMENT = 64


def read_program(path: Path, *, trust: bool = False) -> ExportedProgram:
    """The program in a `.pt2` file; its tied weights are one again.

    Args:
        trust: do not look at what the file holds: reading it may run any code.

    Raises:
        UnsafePickleError: reading it could run code; nothing was run.
        SourceError: it is missing, damaged, or no exported program.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if not is_archive(path):
        raise SourceError(f"{path} is damaged or no exported program: it is not an archive")
    if is_torchscript(path):
        raise SourceError(
            f"{path} is a TorchScript file, which cannot be converted: export the Python model it was made from "
            "with torch.export.save, or save its state_dict() and name its architecture with --model"
        )
    if not trust:
        check_program(path)
    _register_outputs(path)
    with _quiet() as logged:
        try:
            program = torch.export.load(path)
        except Exception as error:
            cause = logged[-1] if logged else error
            raise SourceError(f"{path} is damaged, or written by another torch: {one_line(cause, 200)}") from error
    first: dict[object, Tensor] = {}
    for tensors in (program.state_dict, program.constants):
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                tensors[name] = first.setdefault(memory(value), _aligned(value))
    return program


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program as `torch.export.save` does.

    Raises:
        OSError: the disk does not take it.
        SourceError: torch has no form for something in it.
    """
    with _quiet():
        try:
            torch.export.save(program, path)
        except OSError:
            raise
        except Exception as error:
            if "PytorchStreamWriter" in str(error) or "No space" in str(error):
                raise OutputError(f"{path}: {one_line(error, 200)}") from error
            raise SourceError(f"the exported program cannot be written: {one_line(error, 200)}") from error


def export_module(model: nn.Module, inputs: ExampleInputs) -> ExportedProgram:
    """A converted `GraphModule`, which is code, as a program, which is data; sizes stay free where they can.

    Raises:
        SourceError: torch cannot export it.
    """
    names = [n.target for n in model.graph.nodes if n.op == "placeholder"] if isinstance(model, fx.GraphModule) else []

    def dynamic(given: ExampleInputs) -> dict[str, Any]:
        def free(value: Any) -> Any:
            return dict.fromkeys(range(value.dim()), Dim.AUTO) if isinstance(value, Tensor) else None

        args, kwargs = pytree.tree_map(free, (given.args, given.kwargs))
        return {**dict(zip(names, args, strict=False)), **kwargs}

    # A size of one would be taken for a rule.
    two = inputs.map(lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == 1 else t)
    with _quiet(), torch.no_grad():
        for given, shapes in ((two, dynamic(two)), (inputs, dynamic(inputs)), (inputs, None)):
            try:
                return torch.export.export(model, given.args, given.kwargs, dynamic_shapes=shapes, strict=False)
            except Exception as error:
                failure = error
    raise SourceError(f"torch.export fails: {one_line(failure, 200)}") from failure


def _aligned(tensor: Tensor) -> Tensor:
    if tensor.data_ptr() % _ALIGNMENT == 0 or tensor.layout is not torch.strided:
        return tensor
    copied = tensor.detach().clone(memory_format=torch.preserve_format)
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


def _register_outputs(path: Path) -> None:
    """Import the known libraries whose output classes a program's calling convention names: torch asks for that."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/models/model.json"))
            calls = json.loads(archive.read(name))["graph_module"]["module_call_graph"]
    except Exception:
        return  # torch says what is wrong
    named = set(re.findall(r'"type": "([\w.]+)"', json.dumps(calls).replace("\\", "")))
    if outputs := [name for name in named if name.startswith("diffusers.")]:
        family("diffusers").register_outputs(outputs)


@contextmanager
def _quiet() -> Iterator[list[BaseException]]:
    """Nothing on the terminal; the errors that torch only logs are in the list."""
    logged: list[BaseException] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                logged.append(record.exc_info[1])

    keep, known = Keep(), logging.root.manager.loggerDict
    names = {"torch.export", "torch._export", *(n for n in known if n.startswith(("torch.export.", "torch._export.")))}
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [keep]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield logged
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers
