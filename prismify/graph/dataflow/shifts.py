"""Where a shift of a layer's whole output goes: whether every reader takes one number added to all of it away again.

Each node that the layer reaches is described by what the number becomes there: `c` where the node moves by c times
the number in every element, NaN where it moves by one amount that only values tell, and None where its elements move
by different amounts, or by what is not known here. A norm makes it 0.
"""

from __future__ import annotations

import heapq
import operator
from math import isnan, nan
from typing import Any

import torch
from torch import fx

from .channels import VIEWS
from .flow import is_continuous, numel, operands, operator_name, shape

Shift = float | None

#: Rearranging, choosing by what the shift does not reach, averages and maxima: each element moves by what it was.
_KEEPING = VIEWS | {
    "slice", "select", "narrow", "repeat", "repeat_interleave", "tile", "expand_as", "reshape_as", "view_as", "unfold",
    "index", "index_select", "gather", "take_along_dim", "diagonal", "roll", "flip", "rot90", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "mean", "amax", "amin", "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk",
    "unsafe_split",
}  # fmt: skip
#: What subtracts a mean of its own, or divides by a sum that grows alike: of the first operand no shift is left.
_REMOVING = {"layer_norm", "group_norm", "softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax",
             "var", "std"}  # fmt: skip
_JOINING = {"cat", "concat", "stack"}
_DROPPING = {"dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_SUMS = {"add": 1, "add_": 1, "sub": -1, "sub_": -1}
_PRODUCTS = {"mul", "mul_", "div", "div_"}
#: Padding in which every number is one of the picture's.
_REPEATING = {"reflect", "replicate", "circular"}


def removed_by(layer: fx.Node) -> frozenset[str]:
    """The operators that, on every path from `layer` to a result, take away what is added to all of its output.

    The set is empty where such a shift reaches a result, or what becomes of it is not proven.
    """
    position = {node: index for index, node in enumerate(layer.graph.nodes)}
    shifts: dict[fx.Node, Any] = {layer: 1.0}
    removers: set[str] = set()
    waiting = [(position[user], user) for user in layer.users]
    heapq.heapify(waiting)
    seen = {user for _, user in waiting}
    while waiting:
        _, node = heapq.heappop(waiting)
        shift = None if node.op != "call_function" else _through(node, shifts)
        if shift is None:
            return frozenset()
        if shift == 0.0:
            removers.add(operator_name(node))
            continue
        shifts[node] = shift
        fresh = [user for user in node.users if user not in seen]
        seen.update(fresh)
        for user in fresh:
            heapq.heappush(waiting, (position[user], user))
    return frozenset(removers)


def _through(node: fx.Node, shifts: dict[fx.Node, Any]) -> Any:
    """What a shift becomes in the result of an operator that reads it; a tuple for several results."""
    name, args = operator_name(node), node.args
    found = operands(node)
    of = [shifts.get(operand, 0.0) for operand in found]
    if node.target is operator.getitem:
        return of[0][args[1]] if isinstance(of[0], tuple) else of[0]  # type: ignore[index]
    if any(isinstance(shift, tuple) for shift in of) or "out" in node.kwargs or not is_continuous(node):
        return None
    if name in _SUMS and len(args) > 1:
        alpha = node.kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        first, second = (_of(argument, shifts) for argument in args[:2])
        return first + _SUMS[name] * alpha * second if isinstance(alpha, (int, float)) else None
    if name in _PRODUCTS and len(args) > 1:
        return None if node.kwargs else _product(name, args, shifts)
    if name in _JOINING or name == "after_write":
        return of[0] if all(shift == of[0] for shift in of) else None
    if name == "where":
        return of[1] if len(of) == 3 and of[0] == 0.0 and of[1] == of[2] else None
    if name == "scaled_dot_product_attention":  # v is averaged, by weights that sum to one where nothing is masked
        return of[2] if of[:2] == [0.0, 0.0] and len(of) == 3 and not _drops(node, 4) else None
    return _of_the_first(node, name, of) if found[0] in shifts and not any(of[1:]) else None


def _of_the_first(node: fx.Node, name: str, of: list[float]) -> Any:
    """`_through` an operator whose first operand alone is shifted."""
    args = node.args
    if name in _REMOVING:
        return 0.0
    if name in ("native_layer_norm", "native_group_norm"):  # beside the result, the mean and what it divides by
        return 0.0, of[0], 0.0
    if name in ("var_mean", "std_mean"):
        return 0.0, of[0]
    if name in ("instance_norm", "batch_norm"):  # by statistics of its own, and none are kept for later
        return 0.0 if args[5] is True and args[3] is None else None
    if name in _KEEPING:
        return None if name == "view" and isinstance(args[1], torch.dtype) else of[0]
    if name in _DROPPING:
        return None if _drops(node, 1) and args[2] else of[0]
    if name == "pad":
        return of[0] if len(args) > 2 and args[2] in _REPEATING else None
    if name.startswith("avg_pool"):  # zeros of the border are averaged in
        padding, counted, divisor = (args[i] if len(args) > i else value for i, value in ((3, 0), (5, True), (6, None)))
        bare = not any(padding if isinstance(padding, (list, tuple)) else [padding])
        return of[0] if divisor is None and (bare or not counted) else None
    if name == "sum":
        return of[0] * (numel(operands(node)[0]) / max(1, numel(node)))
    if name == "rsub":
        return None if len(args) > 2 or node.kwargs else -of[0]
    return -of[0] if name in ("neg", "neg_") else None


def _of(argument: Any, shifts: dict[fx.Node, Any]) -> float:
    return shifts.get(argument, 0.0) if isinstance(argument, fx.Node) else 0.0


def _product(name: str, args: tuple[Any, ...], shifts: dict[fx.Node, Any]) -> Shift:
    """A multiple of a shifted operand, where the factor is one number for all of it."""
    first, second = args[0], args[1]
    if _of(first, shifts) == 0.0 and name in ("mul", "mul_"):
        first, second = second, first
    shift = _of(first, shifts)
    if shift == 0.0 or _of(second, shifts) != 0.0:
        return None
    if isinstance(second, fx.Node):  # in a batch of one, what each image has of its own is one number too
        return nan if shape(second) == () or (second.op == "get_attr" and numel(second) == 1) else None
    if not isinstance(second, (int, float)) or not second or isnan(second):
        return None
    return shift * second if name in ("mul", "mul_") else shift / second


def _drops(node: fx.Node, place: int) -> bool:
    """Whether an operator's chance of dropping what it is given is more than none."""
    chance: Any = node.kwargs.get("dropout_p", node.args[place] if len(node.args) > place else 0.0)
    return bool(chance != 0.0)
