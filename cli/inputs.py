"""Example inputs, from the texts of --input."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..graph import ExampleInputs

_NAMED = re.compile(r"([A-Za-z_]\w*)(:?=)(.*)", re.DOTALL)
_LARGEST_INPUT = 1 << 28


def example_inputs(model: nn.Module, texts: tuple[str, ...], method: str) -> ExampleInputs | None:
    """The inputs that --input asks for; arguments that it does not name are left to be guessed.

    Raises:
        BadParameter: a text is neither a shape nor a readable file, or names are mixed with places.
    """
    import torch

    from ..graph import ExampleInputs, inputs_with

    if not texts:
        return None
    named = [text for text in texts if _NAMED.match(text)]
    if named:
        if len(named) < len(texts):
            other = next(text for text in texts if text not in named)
            raise typer.BadParameter(f"give every input a name, also {other!r}, or none", param_hint="--input")
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        return ExampleInputs((), dict(_named_input(text, dtype) for text in named))
    values = [_input(text) for text in texts]
    if len(values) > 1:
        return ExampleInputs(tuple(values))
    value = values[0]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return ExampleInputs((), value)
    if isinstance(value, (list, tuple)):
        return ExampleInputs(tuple(value))
    if not isinstance(value, torch.Tensor):
        raise typer.BadParameter(
            f"{texts[0]} holds a {type(value).__name__}, not a tensor, a list or a dictionary of arguments",
            param_hint="--input",
        )
    return inputs_with(model, value, method)


def _named_input(text: str, dtype: torch.dtype) -> tuple[str, Any]:
    """NAME=SHAPE, NAME=FILE.pt or NAME:=JSON."""
    match = _NAMED.match(text)
    assert match is not None
    name, equals, value = match.groups()
    if equals == ":=":
        try:
            return name, json.loads(value)
        except json.JSONDecodeError as error:
            raise typer.BadParameter(f"the value of {name} is not JSON: {value}", param_hint="--input") from error
    found = _input(value)
    floating = getattr(found, "is_floating_point", bool)()
    return name, found.to(dtype) if floating and not value.endswith((".pt", ".pth")) else found


def _input(text: str) -> Any:
    import torch

    from ..checkpoint.formats import read_pickle

    path = Path(text)
    if path.suffix in (".pt", ".pth"):
        if not path.is_file():
            raise typer.BadParameter(f"{text}: no such file", param_hint="--input")
        return read_pickle(path)
    numbers, _, kind = text.partition(":")
    try:
        shape = [int(part) for part in numbers.replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or kind not in ("", "int", "ones"):
        raise typer.BadParameter(
            f"{text!r} is neither a shape such as 1,3,256,256 nor a .pt file", param_hint="--input"
        )
    if prod(shape) > _LARGEST_INPUT:
        raise typer.BadParameter(f"{text} is {prod(shape):,} numbers, more than a scan needs", param_hint="--input")
    if kind:
        return torch.full(shape, int(kind == "ones"))
    generator = torch.Generator().manual_seed(0)
    tensor: Tensor = torch.randn(shape, generator=generator)
    return tensor
