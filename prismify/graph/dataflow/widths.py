"""Widths that could be another number: channels that some layers make, others read, and nobody else counts.

Between the two stand operators that treat every channel by itself (activations, sums of like tensors, resampling),
norms, and concatenations, behind which a layer reads several widths. Where
channels are reshaped, cut, mixed by anything but a layer, or returned, their number is part of the model's code or of
its result, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import lcm, prod
from typing import Any

import torch
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
#: Norms whose statistics keep channels, or whole groups of them, apart; and those of all channels, first of their axes.
_NORMS = {"group_norm", "batch_norm", "instance_norm"}
_LAYER_NORMS = {"layer_norm", "rms_norm"}


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


@dataclass(frozen=True)
class Widths:
    """The widths of a model.

    Args:
        rows: in the order of their first makers.
        read: of every reader and every norm, the names of the widths that it reads, side by side in this order.
    """

    rows: tuple[Width, ...] = ()
    read: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def staying(self, why: Mapping[str, str]) -> Widths:
        """The same with reasons, by name, why some of them stay; a reason that there was already counts."""
        rows = (replace(row, obstacle=row.obstacle or why.get(row.name)) for row in self.rows)
        return replace(self, rows=tuple(rows))


@dataclass
class _Set:
    """What is known of channels that were found to be the same ones."""

    channels: int
    makers: dict[str, None] = field(default_factory=dict)
    step: int = 1
    obstacle: str | None = None


#: Sets of channels side by side, and the axis along which they lie.
_Place = tuple[tuple[int, ...], int]


class _Found:
    """Sets of channels that are joined as the graphs are read; ends of layers are the same in every call."""

    def __init__(self) -> None:
        self.sets: list[_Set] = []
        self.parents: list[int] = []
        self.makers: dict[str, int] = {}
        self.readers: dict[str, tuple[int, ...] | None] = {}
        self.norms: dict[str, tuple[int, ...] | None] = {}

    def maker(self, layer: str, channels: int) -> int:
        """What a layer makes."""
        if layer not in self.makers:
            self.makers[layer] = len(self.sets)
            self.parents.append(len(self.sets))
            self.sets.append(_Set(channels, {layer: None}))
        return self.makers[layer]

    def reads(self, ends: dict[str, tuple[int, ...] | None], name: str, sets: tuple[int, ...] | None) -> None:
        """A layer or norm reads sets side by side, or what does not come from layers."""
        before = ends.setdefault(name, sets)
        if before is not None and sets is not None and self.like(before, sets):
            return
        if before is not sets:
            ends[name] = None
            for number in (*(before or ()), *(sets or ())):
                self.stays(number, f"{name} reads other channels in another call")

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            number = self.parents[number]
        return number

    def like(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Join sets one by one where they lie alike; False where they do not."""
        if [self.sets[n].channels for n in one] != [self.sets[n].channels for n in other]:
            return False
        for first, second in zip(one, other, strict=True):
            self._join(first, second)
        return True

    def _join(self, one: int, other: int) -> None:
        one, other = sorted((self.root(one), self.root(other)))
        if one != other:
            self.parents[other] = one
            first, second = self.sets[one], self.sets[other]
            first.makers.update(second.makers)
            first.step = lcm(first.step, second.step)
            first.obstacle = first.obstacle or second.obstacle

    def together(self, number: int, step: int) -> None:
        """So many of the channels stay together."""
        one = self.sets[self.root(number)]
        one.step = lcm(one.step, step)

    def stays(self, number: int, why: str) -> None:
        """Their number is fixed; the first reason counts."""
        one = self.sets[self.root(number)]
        one.obstacle = one.obstacle or why

    def widths(self) -> Widths:
        """What was found."""
        for name, sets in {**self.readers, **self.norms}.items():
            roots = [self.root(n) for n in sets or ()]
            for number in {n for n in roots if roots.count(n) > 1}:
                self.stays(number, f"{name} reads them twice")
        roots = [n for n in range(len(self.sets)) if self.root(n) == n]
        names = {n: next(iter(self.sets[n].makers)) for n in roots}
        read = {
            name: tuple(names[self.root(n)] for n in sets)
            for name, sets in {**self.readers, **self.norms}.items()
            if sets is not None
        }
        rows = []
        for number in roots:
            one, name = self.sets[number], names[number]
            readers = tuple(layer for layer in self.readers if name in read.get(layer, ()))
            norms = tuple(norm for norm in self.norms if name in read.get(norm, ()))
            obstacle = one.obstacle or (None if readers else "no layer reads them")
            rows.append(Width(name, one.channels, tuple(one.makers), readers, norms, one.step, obstacle))
        return Widths(tuple(rows), read)


def widths_in(graphs: Iterable[fx.Graph], layers: Mapping[fx.Node, str]) -> Widths:
    """The widths between the layers of captured graphs.

    Args:
        graphs: of every entry point.
        layers: the name of the layer that each convolution or linear node is.
    """
    found = _Found()
    for graph in graphs:
        places: dict[fx.Node, _Place] = {}
        for node in graph.nodes:
            _read(node, layers, places, found)
    return found.widths()


def _read(node: fx.Node, layers: Mapping[fx.Node, str], places: dict[fx.Node, _Place], found: _Found) -> None:
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
    elif name in _JOINING:
        place = _side_by_side(node, places, found)
    elif name in _NORMS | _LAYER_NORMS:
        place = _norm(node, name, places, found)
    elif name in _SPATIAL and len(shape(node)) == len(shape(given[0])):
        place = places[given[0]] if _behind_channels(node, places[given[0]][1]) else None
    elif name in _MOVING:
        place = _moved(node, name, places)
    if place is None:
        what = "they are a result" if node.op == "output" else f"{name} in {node.meta.get('module') or 'the model'}"
        for operand in given:
            _stay(places[operand], what, found)
        return
    places[node] = place


def _stay(place: _Place, why: str, found: _Found) -> None:
    for number in place[0]:
        found.stays(number, why)


def _read_layer(node: fx.Node, name: str, given: list[fx.Node], places: dict[fx.Node, _Place], found: _Found) -> None:
    data = operands(node)[0]
    axis = len(shape(data)) - 1
    if CONVOLUTION.match(operator_name(node)):
        axis = len(shape(data)) - len(shape(operands(node)[1])) + 1
    if data in places and places[data][1] == axis:
        found.reads(found.readers, name, places[data][0])
    else:
        found.reads(found.readers, name, None)
        if data in places:
            _stay(places[data], f"{name} reads them along another axis", found)
    for operand in given:
        if operand is not data:
            _stay(places[operand], f"{name} is computed from them", found)
    axis = channel_axis(node)
    places[node] = (found.maker(name, shape(node)[axis]),), axis


def _together(node: fx.Node, given: list[fx.Node], places: dict[fx.Node, _Place], found: _Found) -> _Place | None:
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
    return (first, axis) if all(found.like(first, other) for other in others) else None


def _side_by_side(node: fx.Node, places: dict[fx.Node, _Place], found: _Found) -> _Place | None:
    """Of tensors that are joined: along the channels all of theirs, along another axis the same ones."""
    members: Any = node.args[0]
    if not all(member in places for member in members) or len({places[m][1] for m in members}) > 1:
        return None
    axis = places[members[0]][1]
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    sets = [places[member][0] for member in members]
    if dim % len(shape(node)) == axis:
        return tuple(number for one in sets for number in one), axis
    return (sets[0], axis) if all(found.like(sets[0], other) for other in sets[1:]) else None


def _norm(node: fx.Node, name: str, places: dict[fx.Node, _Place], found: _Found) -> _Place | None:
    data, *others = operands(node)
    owners = {alias.rpartition(".")[0] for other in others for alias in other.meta.get("parameter", ())}
    module = str(node.meta.get("module"))
    if data not in places or any(o in places for o in others) or not owners <= {module}:
        return None
    sets, axis = places[data]
    normalised: Any = node.args[1] if name in _LAYER_NORMS else ()
    if axis != (len(shape(data)) - len(normalised) if normalised else 1):
        return None
    if name == "group_norm":
        groups: Any = node.args[1]
        size = shape(data)[1] // groups
        if any(found.sets[number].channels % size for number in sets):  # a group would reach over two of them
            return None
        for number in sets:
            found.together(number, size)
    found.reads(found.norms, module, sets)
    return places[data]


_JOINING = {"cat", "concat"}
_RESHAPING = {"view", "reshape", "_unsafe_view", "flatten", "unflatten"}
_SWAPPING = {"transpose", "swapaxes", "swapdims", "mT", "t"}
_MOVING = (
    {"constant_pad_nd", "mean", "movedim", "pad", "permute", "select", "slice", "unsqueeze"} | _RESHAPING | _SWAPPING
)


def _moved(node: fx.Node, name: str, places: dict[fx.Node, _Place]) -> _Place | None:
    """Where the channels lie behind an operator that moves or drops axes; None where it is not told."""
    source: Any = operands(node)[0]
    if source not in places:
        return None
    sets, axis = places[source]
    rank = len(shape(source))
    rest: tuple[Any, ...] = node.args[1:]
    if name in _RESHAPING:
        return _reshaped(shape(source), shape(node), places[source])
    if name in ("pad", "constant_pad_nd"):
        return (sets, axis) if rest and rank - len(rest[0]) // 2 > axis else None
    if name == "permute":
        order = [d % rank for d in rest[0]]
        return sets, order.index(axis)
    if name == "movedim":
        sizes = torch.empty(tuple(range(1, rank + 1)), device="meta").movedim(rest[0], rest[1]).shape
        return sets, sizes.index(axis + 1)
    if name in _SWAPPING:
        one, other = (d % rank for d in (rest[:2] or (-2, -1)))
        return sets, {one: other, other: one}.get(axis, axis)
    if name == "mean":
        dims = {d % rank for d in rest[0]} if rest and rest[0] else set(range(rank))
        keeps = bool(rest[1]) if len(rest) > 1 else bool(node.kwargs.get("keepdim", False))
        return None if axis in dims else (sets, axis - (0 if keeps else sum(d < axis for d in dims)))
    dim = rest[0] if rest else 0
    if name == "unsqueeze":
        dim %= rank + 1
        return sets, axis + (dim <= axis)
    dim %= rank
    if dim == axis:
        whole = name == "slice" and shape(node) == shape(source)
        return (sets, axis) if whole else None
    return sets, axis - (name == "select" and dim < axis)


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], place: _Place) -> _Place | None:
    """Where channels lie that keep an axis of their own, with as many numbers before it."""
    sets, axis = place
    for number, size in enumerate(after):
        if size == before[axis] and prod(after[:number]) == prod(before[:axis]):
            return sets, number
    return None


def _behind_channels(node: fx.Node, axis: int) -> bool:
    """Whether an operator over places has all of them behind the channels."""
    return axis == 1 and len(shape(node)) > 2
