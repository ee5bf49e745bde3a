"""What an operator of a person's own amounts to: it is built on the meta device, and run there."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import torch
from torch import nn

from ..errors import ShapeError, one_line
from ..graph import ExampleInputs
from ..graph.isolation import fake_weights, undisturbed
from ..graph.recorder import record
from ..layers import Operator, build_operator
from ..layers.operator import stand_in
from .count import Counted, node_macs, unique
from .layer import Layer

#: What prismify's own operators amounted to, by all that it depends on: (weights, biases, multiply-adds of one call).
_COUNTED: dict[tuple[Any, ...], tuple[int, int, int]] = {}
_MOST_COUNTED = 10_000


def count_own(what: Operator, layer: Layer, module: nn.Module | None) -> Counted:
    """The numbers of an operator of one's own, and its multiply-adds from what it runs.

    Args:
        module: the layer itself; None for an operator of a graph, of which there are the facts alone.

    Raises:
        ShapeError: it cannot take the layer's place, or does not run on such an input as the layer's.
    """
    key = None if what.is_own or module is None else _key(what, layer, module)
    if key is not None and key in _COUNTED:
        weights, biases, once = _COUNTED[key]
    else:
        weights, biases, once = _count(what, layer, module)
        if key is not None and len(_COUNTED) < _MOST_COUNTED:
            _COUNTED[key] = weights, biases, once
    shape = layer.input_shape
    return Counted(weights, biases, 0 if shape is None else once * layer.input_numel // max(1, prod(shape)))


def _key(what: Operator, layer: Layer, module: nn.Module) -> tuple[Any, ...] | None:
    """What the count depends on where a layer is torch's own: a model repeats a few shapes many times."""
    if not type(module).__module__.startswith("torch.nn."):
        return None
    kinds = tuple((tuple(p.shape), p.dtype) for p in module.parameters(recurse=False))
    return json.dumps(what.to_dict(), sort_keys=True), repr(module), layer.input_shape, kinds


def _count(what: Operator, layer: Layer, module: nn.Module | None) -> tuple[int, int, int]:
    """(weights, biases, multiply-adds of one call)."""
    operator = build_operator(what, _by_facts(layer) if module is None else stand_in(module))
    biases = sum(p.numel() for p in (operator._parameters.get("bias"),) if p is not None)
    weights = sum(p.numel() for p in unique(operator.parameters())) - biases
    if layer.input_shape is None:
        return weights, biases, 0
    inputs = ExampleInputs(
        (torch.empty(layer.input_shape, dtype=next((p.dtype for p in operator.parameters()), torch.float32)),)
    )
    try:
        with undisturbed(operator) as held, fake_weights(operator) as (mode, make), mode:
            graph = record(operator, "forward", inputs.map(make), held)
    except Exception as error:
        text = "x".join(map(str, layer.input_shape))
        raise ShapeError(f"{what.type} does not run on {text}: {one_line(error)}") from error
    return weights, biases, sum(node_macs(node) for node in graph.nodes)


def _by_facts(layer: Layer) -> nn.Module:
    """A layer of the same widths and kernel on the meta device."""
    if layer.kind == "linear":
        return nn.Linear(layer.in_channels, layer.out_channels, layer.bias, device="meta")
    kinds = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d, "conv_transpose1d": nn.ConvTranspose1d,
             "conv_transpose2d": nn.ConvTranspose2d, "conv_transpose3d": nn.ConvTranspose3d}  # fmt: skip
    if layer.kind not in kinds:
        raise ShapeError(f"operators of your own take the place of convolutions and linear layers, not of {layer.kind}")
    made: Any = kinds[layer.kind]
    widths = layer.in_channels, layer.out_channels, layer.kernel_size
    layer_: nn.Module = made(*widths, groups=layer.groups, bias=layer.bias, device="meta")
    return layer_
