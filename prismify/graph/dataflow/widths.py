"""Widths that could be another number: channels that some layers make, others read, and nobody else counts.

Between the two stand operators that treat every channel by itself (activations, sums of like tensors, resampling) and
norms whose statistics keep channels apart. Where channels are concatenated, reshaped, mixed by anything but a layer, or
returned, their number is part of the model's code or of its result, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import Any

from torch import fx

from .channels import channel_axis
from .flow import CONVOLUTION, operands, operator_name, shape

#: Every number by itself, whatever its place.
_SINGLE = {
    "_to_copy", "abs", "after_write", "alias", "celu", "clamp", "clamp_", "clamp_min", "clone", "contiguous",
    "cos", "detach", "dropout", "dropout_", "elu", "elu_", "exp", "feature_dropout", "gelu", "hardswish",
    "hardswish_", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "lift_fresh", "mish", "neg", "pow",
    "relu", "relu6", "relu_", "rsqrt", "selu", "sigmoid", "sigmoid_", "silu", "silu_", "sin", "softplus",
    "sqrt", "square", "tanh", "tanh_", "to", "type_as",
}  # fmt: skip
#: Number by number with other tensors, by the rules of broadcasting.
_TOGETHER = {
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
    "lerp",
    "addcmul",
    "where",
    "maximum",
    "minimum",
}
#: Places within a channel, all channels alike.
_SPATIAL = {
    "_upsample_bilinear2d_aa", "_upsample_nearest_exact2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "upsample_bicubic2d",
    "upsample_bilinear2d", "upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "upsample_trilinear3d",
}  # fmt: skip
#: Norms whose statistics keep channels, or whole groups of them, apart.
_NORMS = {"group_norm", "batch_norm", "instance_norm"}


@dataclass(frozen=True)
class Width:
    """One number of channels, and all that would change with it.

    Args:
        name: of its first maker, by which it is called.
        channels: how many there are.
        makers: layers whose outputs they are.
        readers: layers that read them.
        norms: norm modules between.
        step: channels that stay together, those of a group norm's group.
        obstacle: why their number stays, or None.
    """

    name: str
    channels: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    step: int = 1
    obstacle: str | None = None


@dataclass
class _Set:
    """What is known of channels that were found to be the same ones."""

    channels: int
    makers: dict[str, None] = field(default_factory=dict)
    readers: dict[str, None] = field(default_factory=dict)
    norms: dict[str, None] = field(default_factory=dict)
    step: int = 1
    obstacle: str | None = None


class _Widths:
    """Sets of channels that are joined as the graphs are read; ends of layers are the same set in every call."""

    def __init__(self) -> None:
        self.sets: list[_Set] = []
        self.parents: list[int] = []
        self.ends: dict[tuple[str, str], int] = {}

    def end(self, side: str, layer: str, channels: int) -> int:
        """What a layer makes ("makers"), or reads ("readers")."""
        key = (side, layer)
        if key not in self.ends:
            self.ends[key] = len(self.sets)
            self.parents.append(len(self.sets))
            self.sets.append(_Set(channels))
            getattr(self.sets[-1], side)[layer] = None
        return self.root(self.ends[key])

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            number = self.parents[number]
        return number

    def join(self, one: int, other: int) -> int:
        """Both are the same channels."""
        one, other = sorted((self.root(one), self.root(other)))
        if one != other:
            self.parents[other] = one
            first, second = self.sets[one], self.sets[other]
            for name in ("makers", "readers", "norms"):
                getattr(first, name).update(getattr(second, name))
            first.step = lcm(first.step, second.step)
            first.obstacle = first.obstacle or second.obstacle
            if first.channels != second.channels:
                self.stays(one, "layers of other widths take part")
        return one

    def stays(self, number: int, why: str) -> None:
        """Their number is fixed; the first reason counts."""
        found = self.sets[self.root(number)]
        found.obstacle = found.obstacle or why


def widths_in(graphs: Iterable[fx.Graph], layers: Mapping[fx.Node, str]) -> list[Width]:
    """The widths between the layers of captured graphs, in the order of their first makers.

    Args:
        graphs: of every entry point.
        layers: the name of the layer that each convolution or linear node is.
    """
    found = _Widths()
    for graph in graphs:
        places: dict[fx.Node, tuple[int, int]] = {}  # node -> (set, axis that holds its channels)
        for node in graph.nodes:
            _read(node, layers, places, found)
    rows = []
    for number, one in enumerate(found.sets):
        if found.root(number) == number and one.makers:
            obstacle = one.obstacle or (None if one.readers else "no layer reads them")
            ends = tuple(one.makers), tuple(one.readers), tuple(one.norms)
            rows.append(Width(next(iter(one.makers)), one.channels, *ends, one.step, obstacle))
    return rows


def _read(node: fx.Node, layers: Mapping[fx.Node, str], places: dict[fx.Node, tuple[int, int]], found: _Widths) -> None:
    if node.op in ("placeholder", "get_attr"):
        return
    given = [operand for operand in dict.fromkeys(operands(node)) if operand in places]
    name = operator_name(node) if node.op == "call_function" else "a result"
    if node in layers:
        _read_layer(node, layers[node], given, places, found)
        return
    if not given:
        return
    place = None
    if name in _SINGLE and places.get(operands(node)[0]) is not None:
        place = places[operands(node)[0]]
        given = given[:1] if name in ("after_write", "type_as") else given
    elif name in _TOGETHER:
        place = _together(node, given, places, found)
    elif name in _NORMS:
        place = _norm(node, name, places, found)
    elif name in _SPATIAL and len(shape(node)) == len(shape(given[0])):
        place = places[given[0]] if _behind_channels(node, places[given[0]][1]) else None
    elif name in _MOVING:
        place = _moved(node, name, places)
    if place is None:
        what = "they are a result" if node.op == "output" else f"{name} in {node.meta.get('module') or 'the model'}"
        for operand in given:
            found.stays(places[operand][0], what)
        return
    places[node] = place


def _read_layer(
    node: fx.Node, name: str, given: list[fx.Node], places: dict[fx.Node, tuple[int, int]], found: _Widths
) -> None:
    data = operands(node)[0]
    axis = len(shape(data)) - 1
    if CONVOLUTION.match(operator_name(node)):
        axis = len(shape(data)) - len(shape(operands(node)[1])) + 1
    reads = found.end("readers", name, shape(data)[axis])
    if data in places and places[data][1] == axis:
        found.join(places[data][0], reads)
    else:
        found.stays(reads, "they do not come from layers")
        if data in places:
            found.stays(places[data][0], f"{name} reads them along another axis")
    for operand in given:
        if operand is not data:
            found.stays(places[operand][0], f"{name} is computed from them")
    axis = channel_axis(node)
    places[node] = found.end("makers", name, shape(node)[axis]), axis


def _together(
    node: fx.Node, given: list[fx.Node], places: dict[fx.Node, tuple[int, int]], found: _Widths
) -> tuple[int, int] | None:
    """Of tensors that are broadcast together: those with channels have the same ones, the others have one there."""
    rank = len(shape(node))
    axes = {places[operand][1] + rank - len(shape(operand)) for operand in given}
    if len(axes) > 1:
        return None
    axis = axes.pop()
    for operand in dict.fromkeys(operands(node)):
        own = axis - rank + len(shape(operand))
        if operand not in places and own >= 0 and shape(operand)[own] != 1:
            return None
    first, *others = (places[operand][0] for operand in given)
    for other in others:
        first = found.join(first, other)
    return first, axis


def _norm(node: fx.Node, name: str, places: dict[fx.Node, tuple[int, int]], found: _Widths) -> tuple[int, int] | None:
    data, *others = operands(node)
    owners = {alias.rpartition(".")[0] for other in others for alias in other.meta.get("parameter", ())}
    module = str(node.meta.get("module"))
    if data not in places or places[data][1] != 1 or any(o in places for o in others) or not owners <= {module}:
        return None
    channels = shape(data)[1]
    number = found.join(places[data][0], found.end("norms", module, channels))
    if name == "group_norm":
        groups: Any = node.args[1]
        found.sets[number].step = lcm(found.sets[number].step, channels // groups)
    return number, 1


_MOVING = {"unsqueeze", "slice", "select", "permute", "transpose", "mean", "pad", "constant_pad_nd", "flatten"}


def _moved(node: fx.Node, name: str, places: dict[fx.Node, tuple[int, int]]) -> tuple[int, int] | None:
    """Where the channels lie behind an operator that moves or drops axes; None where it is not told."""
    source: Any = operands(node)[0]
    if source not in places:
        return None
    number, axis = places[source]
    rank = len(shape(source))
    rest: tuple[Any, ...] = node.args[1:]
    if name in ("pad", "constant_pad_nd"):
        return (number, axis) if rest and rank - len(rest[0]) // 2 > axis else None
    if name == "permute":
        order = [d % rank for d in rest[0]]
        return number, order.index(axis)
    if name == "transpose":
        one, other = (d % rank for d in rest[:2])
        return number, {one: other, other: one}.get(axis, axis)
    if name == "mean":
        dims = {d % rank for d in rest[0]} if rest and rest[0] else set(range(rank))
        keeps = bool(rest[1]) if len(rest) > 1 else bool(node.kwargs.get("keepdim", False))
        return None if axis in dims else (number, axis - (0 if keeps else sum(d < axis for d in dims)))
    if name == "flatten":
        start = rest[0] % rank if rest else 0
        return (number, axis) if start > axis else None
    dim = rest[0] if rest else 0
    if name == "unsqueeze":
        dim %= rank + 1
        return number, axis + (dim <= axis)
    dim %= rank
    if dim == axis:
        whole = name == "slice" and shape(node) == shape(source)
        return (number, axis) if whole else None
    return number, axis - (name == "select" and dim < axis)


def _behind_channels(node: fx.Node, axis: int) -> bool:
    """Whether an operator over places has all of them behind the channels."""
    return axis == 1 and len(shape(node)) > 2
