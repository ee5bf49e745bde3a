"""An ONNX file in ONNX Runtime: what it makes beside the model that it was written from, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bench.timing import Timing, compare
from ..errors import ConversionError, one_line
from ..graph import ExampleInputs
from .onnx_file import Written

#: Beside the sizes of the example: what open sizes are multiplied by.
_SIZES = (1, 2, 3)


def session(path: Path, threads: int | None = None) -> Any:
    """An inference session on the CPU.

    Raises:
        ConversionError: onnxruntime is not installed, or does not take the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConversionError("ONNX files run in onnxruntime: pip install 'prismify[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin after a run take turns with those of the next session, where several are timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a family of its own
        raise ConversionError(f"{path}: onnxruntime does not take the file: {one_line(error)}") from error


def largest_difference(written: Written) -> dict[str, float]:
    """How far the file's outputs are from the model's, at the example's sizes and, where they are open, at two more.

    Returns:
        the sizes in words -> the largest absolute difference over all outputs; where sizes are fixed, of three draws.

    Raises:
        ConversionError: onnxruntime is not installed or does not run the file, or the model does not run at such sizes.
    """
    running = session(written.path)
    open_sizes = {axis for axes in written.inputs.values() for axis in axes if isinstance(axis, str)}
    found: dict[str, float] = {}
    for number in _SIZES:
        inputs = _drawn(written, number if open_sizes else 1, seed=number)
        ours = _run(running, feed(written, inputs, running))
        try:
            with torch.no_grad():
                wanted = written.entry(*inputs.args)
        except Exception as error:  # whatever somebody's model raises at a size that it was not asked for before
            raise ConversionError(f"the model does not run on larger inputs: {one_line(error)}") from error
        most = max(_apart(torch.from_numpy(a), b) for a, b in zip(ours, wanted, strict=True))
        sizes = ", ".join(
            f"{name} {'×'.join(map(str, tensor.shape)) or 'scalar'}"
            for name, (_, tensor) in zip(written.entry.input_names(), inputs.tensors(), strict=True)
        )
        found[sizes] = max(most, found.get(sizes, 0.0))
    return found


def times(files: Mapping[str, Written], threads: int | None = None, seconds: float = 2.0) -> dict[str, Timing]:
    """Milliseconds of a run of each file on its example, in turn, round after round.

    Args:
        seconds: for each in all.
    """
    calls = {}
    for name, written in files.items():
        running = session(written.path, threads)
        given = feed(written, written.entry.example, running)
        calls[name] = partial(_run, running, given)
    return compare(calls, torch.device("cpu"), seconds)


def _apart(ours: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference; infinite where one alone is not a number, or where sizes differ."""
    if ours.shape != wanted.shape:
        return inf
    apart = (ours.double() - wanted.double()).abs()
    apart[ours == wanted] = 0  # infinities too
    if not ours.is_floating_point():
        return float(apart.max()) if apart.numel() else 0.0
    apart[ours.isnan() & wanted.isnan()] = 0
    return float(apart.nan_to_num(nan=inf).max()) if apart.numel() else 0.0


def _run(running: Any, given: dict[str, Any]) -> Any:
    try:
        return running.run(None, given)
    except Exception as error:  # it has a family of its own
        raise ConversionError(f"onnxruntime does not run the file: {one_line(error)}") from error


def feed(written: Written, inputs: ExampleInputs, running: Any) -> dict[str, Any]:
    """The inputs by the file's names, as arrays; an input that the model does not read is none of the file's."""
    names = written.entry.input_names()
    known = {value.name for value in running.get_inputs()}
    return {n: t.detach().numpy() for n, (_, t) in zip(names, inputs.tensors(), strict=True) if n in known}


def _drawn(written: Written, times_larger: int, seed: int) -> ExampleInputs:
    """New numbers at the example's sizes, the open ones so many times larger; whole numbers are the example's."""
    names = iter(written.entry.input_names())
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        axes = written.inputs.get(next(names), list(tensor.shape))
        shape = [n * times_larger if isinstance(axis, str) else n for n, axis in zip(tensor.shape, axes, strict=True)]
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator).to(tensor.dtype)
        repeats = [new // old for new, old in zip(shape, tensor.shape, strict=True)]
        return tensor.repeat(repeats) if tensor.dim() else tensor

    return written.entry.example.map(draw)
