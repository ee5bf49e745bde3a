"""The module that a bare operator with a weight amounts to: what a graph without modules is rewritten by."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx, nn

from .dataflow.flow import operator_name, shape

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_OPERATOR = re.compile(r"^(linear|conv[123]d|conv_transpose[123]d|convolution)$")
_CONVOLUTIONS: dict[tuple[int, bool], Any] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


def layer_of(node: fx.Node) -> Layer | None:
    """The convolution or `Linear`, on `meta`, that does what one recorded operator does; None for any other.

    One in the body of a higher-order operator has none: it stays where it is. The weight and bias must be
    parameters themselves, not computed from them.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or "enclosed" in node.meta or not _OPERATOR.match(operator_name(node)):
        return None
    names = [argument.name for argument in schema.arguments]
    arguments: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    weight, bias = arguments["weight"], arguments.get("bias")
    if any(operand is not None and "parameter" not in operand.meta for operand in (weight, bias)):
        return None
    arguments.setdefault("transposed", "transpose" in operator_name(node))
    return layer_from(arguments, shape(weight), weight.meta["dtype"])


def layer_from(arguments: dict[str, Any], weight_shape: tuple[int, ...], dtype: torch.dtype) -> Layer | None:
    """The convolution or `Linear`, on `meta`, of a functional call with these arguments; None for any other."""
    common: dict[str, Any] = {"bias": arguments.get("bias") is not None, "device": "meta", "dtype": dtype}
    if len(weight_shape) == 2:
        return nn.Linear(weight_shape[1], weight_shape[0], **common)
    axes, transposed = len(weight_shape) - 2, bool(arguments.get("transposed"))
    kind = _CONVOLUTIONS.get((axes, transposed))
    if kind is None:
        return None
    groups = int(arguments.get("groups", 1))
    names = ("stride", "padding", "dilation", *(("output_padding",) if transposed else ()))
    geometry = {k: _sizes(arguments[k], axes) for k in names if k in arguments}
    first, second = weight_shape[:2]
    widths = (first, second * groups) if transposed else (second * groups, first)
    layer: Layer = kind(*widths, weight_shape[2:], groups=groups, **geometry, **common)
    return layer


def _sizes(value: Any, axes: int) -> Any:
    if isinstance(value, (int, str)):
        return value
    return tuple(value) * (axes if len(value) == 1 else 1)
