"""A start for narrowed layers: the channels that tell most of the others, and readers that make up for the rest.

Channels are chosen one after the other by what the layers that read them make of all (`selecting`). Makers keep the
weights of the chosen channels; readers become the least squares from those to what they made of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from .moments import Moments, dense_map
from .narrow import NORMS
from .selecting import Reading, selected
from .shapes import is_transposed
from .shapes import widths as widths_of
from .solving import solved

#: name of a layer or norm -> its options in the plan, {"reads": {width: channels, ...}, "makes": {width: channels}}.
Rows = Mapping[str, Mapping[str, Mapping[str, int]]]


def start_narrow(
    rows: Rows,
    original: nn.Module,
    narrow: Mapping[str, nn.Module],
    moments: Mapping[str, Moments],
    orders: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Start narrowed layers and norms from the original's, in place.

    Args:
        original: the whole model before.
        narrow: the module of each row now, by name.
        moments: of the original's layers, those of them that are known.
        orders: of each width its channels in the order in which they are kept, where that is known already.
    """
    chosen: dict[str, Tensor] = {}
    for row in rows.values():
        for width, channels in (*row.get("reads", {}).items(), *row.get("makes", {}).items()):
            if width not in chosen and orders is not None:
                chosen[width] = torch.tensor(sorted(orders[width][:channels]))
            elif width not in chosen:
                chosen[width] = _channels(width, channels, rows, original, moments)

    for name, row in rows.items():
        before = original.get_submodule(name)
        inside, outside = (_side_by_side(row.get(end), chosen, original) for end in ("reads", "makes"))
        if isinstance(before, NORMS):
            assert outside is not None
            _start_norm(before, narrow[name], outside)
        else:
            _start_layer(before, narrow[name], inside, outside, moments.get(name))


def _side_by_side(widths: Mapping[str, int] | None, chosen: Mapping[str, Tensor], original: nn.Module) -> Tensor | None:
    """Which channels are left of several widths together; None for all of them."""
    if not widths:
        return None
    places = _places(widths, original)
    return torch.cat([chosen[width] + places[width].start for width in widths])


def _places(widths: Iterable[str], original: nn.Module) -> dict[str, slice]:
    """Where the channels of each width lie among those of several, by their names, which are those of makers."""
    places, start = {}, 0
    for width in widths:
        stop = start + widths_of(original.get_submodule(width))[1]
        places[width] = slice(start, stop)
        start = stop
    return places


def _channels(width: str, channels: int, rows: Rows, original: nn.Module, moments: Mapping[str, Moments]) -> Tensor:
    """Which channels of a width are left, in their order."""
    if channels == widths_of(original.get_submodule(width))[1]:
        return torch.arange(channels)
    readers = {name: row["reads"] for name, row in rows.items() if width in row.get("reads", {})}
    norms = [original.get_submodule(name) for name, row in rows.items() if width in row.get("makes", {})]
    step = lcm(1, *(norm.num_channels // norm.num_groups for norm in norms if isinstance(norm, nn.GroupNorm)))
    readings = [
        Reading.of(original.get_submodule(name), moments.get(name), _places(widths, original)[width])
        for name, widths in readers.items()
    ]
    if not readings:  # nobody reads them: any are as good
        return torch.arange(channels)
    order, _ = selected(readings, widths_of(original.get_submodule(width))[1], channels // step, step)
    return torch.tensor(sorted(order))


def _start_layer(
    original: nn.Module, narrow: nn.Module, inside: Tensor | None, outside: Tensor | None, moments: Moments | None
) -> None:
    made, (channels_in, channels_out) = dense_map(original), widths_of(original)
    bias = original._parameters.get("bias")
    offset = None if bias is None else bias.detach().double().cpu()
    if outside is not None:
        taps = made.shape[1] // channels_out
        made = made[:, _spread(outside, taps)]
        offset = None if offset is None else offset[outside]
    if inside is not None:
        rows = _spread(inside, made.shape[0] // channels_in)
        if moments is None or not moments.count:
            made = made[rows]
        else:
            transposed = is_transposed(original)
            second = moments.second(centred=offset is not None and not transposed)
            fitted = solved(second[rows][:, rows], second[rows] @ made)
            if offset is not None and not transposed:
                offset = offset + moments.mean @ made - moments.mean[rows] @ fitted
            made = fitted
    _put(narrow, made, offset)


def _put(layer: nn.Module, made: Tensor, offset: Tensor | None) -> None:
    """Give a layer the map (features, outputs) that it is to make, and its bias where that is known."""
    weight: Any = layer._parameters["weight"]
    with torch.no_grad():
        weight.copy_((made if is_transposed(layer) else made.T).reshape(weight.shape))
        if offset is not None:
            layer._parameters["bias"].copy_(offset)  # type: ignore[union-attr]


def _start_norm(original: nn.Module, narrow: nn.Module, channels: Tensor) -> None:
    own = {**narrow._parameters, **narrow._buffers}
    theirs = {**original._parameters, **original._buffers}
    with torch.no_grad():
        for name, value in own.items():
            whole = theirs[name]
            if value is not None and whole is not None:
                value.copy_(whole[channels.to(whole.device)] if value.dim() else whole)


def _spread(channels: Tensor, taps: int) -> Tensor:
    """The numbers of channels, each of which has `taps` of them."""
    return (channels[:, None] * taps + torch.arange(taps)).flatten()


def narrow_rows(rows: Iterable[tuple[str, Any]]) -> dict[str, Mapping[str, Mapping[str, int]]]:
    """Of (name, operator) pairs, those that narrow, with their options."""
    return {name: operator.options for name, operator in rows if operator is not None and operator.type == "Narrow"}
