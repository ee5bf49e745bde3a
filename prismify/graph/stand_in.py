"""The module that a bare operator with a weight amounts to: what a graph without modules is rewritten by."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from .flow import operator_name, shape


def layer_of(node: fx.Node) -> nn.Conv2d | nn.Linear | None:
    """The `Conv2d` or `Linear`, on `meta`, that does what one recorded operator does; None for any other.

    One in the body of a higher-order operator has none: it stays where it is. The weight and bias must be
    parameters themselves, not computed from them.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or "enclosed" in node.meta or operator_name(node) not in ("linear", "conv2d", "convolution"):
        return None
    names = [argument.name for argument in schema.arguments]
    arguments: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    weight, bias = arguments["weight"], arguments.get("bias")
    if any(operand is not None and "parameter" not in operand.meta for operand in (weight, bias)):
        return None
    return layer_from(arguments, shape(weight), weight.meta["dtype"])


def layer_from(
    arguments: dict[str, Any], weight_shape: tuple[int, ...], dtype: torch.dtype
) -> nn.Conv2d | nn.Linear | None:
    """The `Conv2d` or `Linear`, on `meta`, of a functional call with these arguments; None for any other."""
    common: dict[str, Any] = {"bias": arguments.get("bias") is not None, "device": "meta", "dtype": dtype}
    if len(weight_shape) == 2:
        return nn.Linear(weight_shape[1], weight_shape[0], **common)
    if len(weight_shape) != 4 or arguments.get("transposed"):
        return None
    groups = int(arguments.get("groups", 1))
    geometry = {k: _pair(arguments[k]) for k in ("stride", "padding", "dilation") if k in arguments}
    kernel_size = (weight_shape[2], weight_shape[3])
    return nn.Conv2d(weight_shape[1] * groups, weight_shape[0], kernel_size, groups=groups, **geometry, **common)


def _pair(value: Any) -> Any:
    if isinstance(value, (int, str)):
        return value
    return tuple(value) * (2 if len(value) == 1 else 1)
