"""Which channels of a layer's output reach a node: read off by sending channel numbers through the graph.

A fused projection makes q, k and v in one layer, in an order that only the operators behind it tell (chunk,
split, reshape, permute, unbind). So those operators are run on a tensor that holds, in place of values, the
number of each channel. It is an expanded view, so that rearranging a large one costs next to nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .flow import CONVOLUTION, operands, operator_name, shape

#: Operators that rearrange without computing; sources are compared after cancelling these.
VIEWS = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "flatten", "unflatten", "unsqueeze",
    "squeeze", "contiguous", "clone", "expand", "movedim", "alias", "detach", "to", "_to_copy", "after_write",
    "swapaxes", "type_as", "lift_fresh", "mT", "mH", "T", "numpy_T", "adjoint",
}  # fmt: skip
_UNCHANGED = {"contiguous", "clone", "alias", "detach", "to", "_to_copy", "type_as", "lift_fresh", "after_write"}
_PICKING = {"split", "chunk", "split_with_sizes", "unbind", "slice", "select", "narrow", "repeat",
            "repeat_interleave", "expand_as", "reshape_as", "view_as", "unfold"}  # fmt: skip
_JOINING = {"cat", "concat", "stack"}
_PADDING = {"pad", "constant_pad_nd"}
#: Norms, rotary embeddings, scales, feature maps: what computes, and leaves every channel where it is.
_POINTWISE = {
    "layer_norm", "rms_norm", "native_layer_norm", "group_norm", "mul", "mul_", "add", "add_", "sub", "div",
    "div_", "neg", "pow", "sqrt", "rsqrt", "normalize", "clamp_min", "clamp", "dropout", "where", "masked_fill",
    "masked_fill_", "relu", "relu_", "elu", "elu_", "softmax", "_softmax", "tanh", "silu", "sigmoid", "exp",
    "gelu", "square", "abs", "batch_norm", "instance_norm", "softplus", "hardswish", "leaky_relu",
}  # fmt: skip
_REDUCING = {"mean", "sum", "amax", "amin", "linalg_vector_norm", "norm"}
_COMPLEX = {"view_as_complex", "view_as_real"}
#: What may stand between a projection and the attention's product.
BETWEEN = VIEWS | _PICKING | _JOINING | _PADDING | _POINTWISE | _REDUCING | _COMPLEX | {
    "getitem", "index", "copy_", "baddbmm", "chunk_cat"
}  # fmt: skip
#: What no channel stands at: other layers' tokens beside this one's, padding.
_NOBODY = -1
#: Elements beyond which a copy is not made; then the channels are not told.
_LARGEST_COPY = 1 << 26
#: Ways in which several channels may meet at one place (a rotary embedding mixes two).
_MOST_WAYS = 8


@dataclass(frozen=True)
class Layout:
    """How parts lie in the channels of one layer: `pattern`, `repeats` times over.

    Example:
        >>> Layout(1, (("q", 64), ("k", 64), ("v", 64))).channels  # contiguous
        192
    """

    repeats: int
    pattern: tuple[tuple[str, int], ...]

    @property
    def channels(self) -> int:
        """All channels."""
        return self.repeats * sum(width for _, width in self.pattern)

    def __str__(self) -> str:
        text = "|".join(f"{part} {width}" for part, width in self.pattern[:4])
        text += "|..." if len(self.pattern) > 4 else ""
        return text if self.repeats == 1 else f"({text}) × {self.repeats}"


def layout_of(parts: Sequence[str | None]) -> Layout | None:
    """The layout of channels that play the given parts; None where a channel plays none.

    Example:
        >>> print(layout_of("qqkkvvqqkkvv"))
        (q 2|k 2|v 2) × 2
    """
    runs: list[tuple[str, int]] = []
    for part in parts:
        if part is None:
            return None
        if runs and runs[-1][0] == part:
            runs[-1] = (part, runs[-1][1] + 1)
        else:
            runs.append((part, 1))
    for length in range(1, len(runs) + 1):
        pattern, repeats = runs[:length], len(runs) // length
        if pattern * repeats == runs:
            return Layout(repeats, tuple(pattern))
    return None


def channels_reaching(target: fx.Node, layer: fx.Node) -> set[int]:
    """The output channels of `layer`, a convolution or linear node, that reach `target` by rearranging alone.

    Element-wise operators and norms between them pass channels on; another layer does not. The set is empty
    where the operators between cannot be followed.
    """
    traced: dict[fx.Node, list[Any]] = {layer: [_numbers(layer)]}
    try:
        ways = _trace(target, traced)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
        return set()
    found: set[int] = set()
    for way in ways:
        if isinstance(way, Tensor):
            # What an axis of stride 0 repeats need not be looked at again.
            once = way[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in way.stride())]
            found.update(torch.unique(once).tolist())
    return found - {_NOBODY}


def channel_axis(layer: fx.Node) -> int:
    """The axis of a layer's output that holds its channels."""
    rank = len(shape(layer))
    if not CONVOLUTION.match(operator_name(layer)):
        return rank - 1
    return 1 if rank == len(shape(operands(layer)[1])) else 0


def is_depthwise(node: fx.Node) -> bool:
    """Whether a node is a convolution that works in each channel by itself."""
    if node.op != "call_function" or not CONVOLUTION.match(operator_name(node)):
        return False
    data, weight = (shape(n) for n in operands(node)[:2])
    channels = shape(node)[1] if len(shape(node)) == len(weight) > 2 else 0
    return channels > 1 and weight[:2] == (channels, 1) and data[1] == channels


def _numbers(layer: fx.Node) -> Tensor:
    sizes, axis = shape(layer), channel_axis(layer)
    numbers = torch.arange(sizes[axis], dtype=torch.int32)
    return numbers.reshape([-1 if i == axis else 1 for i in range(len(sizes))]).expand(sizes)


def _trace(node: fx.Node, traced: dict[fx.Node, list[Any]]) -> list[Any]:
    """Every way in which channel numbers stand at `node`, each a tensor of its shape (or a tuple of such)."""
    if node not in traced:
        traced[node] = []
        if node.op == "call_function":
            ways = _through(node, traced)
            traced[node] = list({id(way): way for way in ways}.values())[:_MOST_WAYS]
    return traced[node]


def _through(node: fx.Node, traced: dict[fx.Node, list[Any]]) -> list[Any]:
    name = operator_name(node)
    if node.target is operator.getitem:
        source, index = node.args
        return [way[index] for way in _trace(source, traced) if isinstance(way, (tuple, list))]  # type: ignore[arg-type, index]
    if name in _JOINING:
        return _joined(node, traced)
    if name == "view_as_complex":
        return [way.select(-1, i) for way in _trace(operands(node)[0], traced) for i in (0, 1)]
    if name == "view_as_real":
        return [torch.stack([way, way], -1) for way in _trace(operands(node)[0], traced)]
    if name in _PADDING:
        pads: Any = node.args[1]
        return [torch.nn.functional.pad(way, pads, value=_NOBODY) for way in _trace(operands(node)[0], traced)]
    if name in VIEWS | _PICKING:
        return [_rearranged(node, name, way) for way in _trace(operands(node)[0], traced)]
    if is_depthwise(node):
        # Whatever it does in space, channels stay where they are.
        first = (slice(None), slice(None), *[slice(0, 1)] * (len(shape(node)) - 2))
        return [way[first].expand(shape(node)) for way in _trace(operands(node)[0], traced)]
    if name in _REDUCING:
        return _pooled(node, traced)
    return _passed_on(node, name, traced) if name in _POINTWISE else []


def _rearranged(node: fx.Node, name: str, way: Tensor) -> Any:
    if name in _UNCHANGED:
        return way
    source = operands(node)[0]
    if prod(shape(node)) > _LARGEST_COPY:
        raise ValueError("too large to rearrange")
    if name in ("view", "_unsafe_view", "reshape", "view_as", "reshape_as"):
        return way.reshape(shape(node))
    args, kwargs = pytree.tree_map(lambda a: way if a is source else a, (node.args, node.kwargs))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _pooled(node: fx.Node, traced: dict[fx.Node, list[Any]]) -> list[Any]:
    """Through sums over positions; what sums over channels (a norm's statistics) passes none on."""
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    if dims is None or operator_name(node) not in ("mean", "sum", "amax", "amin"):
        return []
    ways = _trace(operands(node)[0], traced)
    pooled = [(way.amin(dims, keep), way.amax(dims, keep)) for way in ways if way.numel() <= _LARGEST_COPY]
    return [low for low, high in pooled if torch.equal(low, high)]


def _joined(node: fx.Node, traced: dict[fx.Node, list[Any]]) -> list[Any]:
    members: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    columns = [_trace(member, traced) for member in members]
    nobody = [torch.full((), _NOBODY, dtype=torch.int32).expand(shape(member)) for member in members]
    ways = []
    for i in range(max(len(column) for column in columns)):
        row = [column[min(i, len(column) - 1)] if column else n for column, n in zip(columns, nobody, strict=True)]
        ways.append(node.target(row, *node.args[1:], **node.kwargs))  # type: ignore[operator]
    return ways


def _passed_on(node: fx.Node, name: str, traced: dict[fx.Node, list[Any]]) -> list[Any]:
    """Through norms, activations and element-wise operators: operands of the result's own shape."""
    ways: list[Any] = []
    for operand in dict.fromkeys(operands(node)):
        if shape(operand) == shape(node):
            ways += [way for way in _trace(operand, traced) if isinstance(way, Tensor)]
    return [(way,) for way in ways] if name.startswith("native_") else ways
