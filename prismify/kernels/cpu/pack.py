"""Packing: rows of a tensor, widened and padded, in a buffer that stays in the first-level cache.

What computes reads only full vectors from that buffer, whatever the tensor's element type, layout,
padding, stride or topology; all of those end here. Numba compiles these functions into the kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .parts import inlined, inner
from .simd import widen_number, widen_tile, widen_vector, zero_vector
from .vectors import lanes_of, stored_bytes_of, tile_of, vector_bytes_of, wide_bytes_of

ZERO, REPLICATE, CIRCULAR, REFLECT = range(4)

#: Columns up to which a row is packed between the vectors computed from other rows, rather than at once.
FEED_COLUMNS = 144

#: A tensor to be packed. Steps are bytes between neighbours; `up` spreads its elements with zeros
#: between (the input gradient of a stride); `phase` is the packed distance between the columns that
#: a stride visits first, second, ...; `lead` and `pitch` are bytes before and between packed rows; `pairs` is
#: the address of the scale and shift of every channel (see `math`), of steps of its own.
VIEW = np.dtype(
    [
        (name, np.int64)
        for name in """
            address batch_step volume_step depth_step row_step col_step
            depth_size depth_pad depth_mode row_size row_pad row_mode row_up
            col_size col_pad col_mode col_up col_stride phase lead pitch
            pairs pairs_batch pairs_volume
        """.split()  # noqa: SIM905
    ]
)


class Strip(NamedTuple):
    """What an item reads of every row of a tensor.

    Args:
        depth, height: the depth positions packed, from `depth` (before the first one where padded) on.
        inside, there: those of them that exist.
        first, columns: the first of the padded columns packed, and how many.
        low, high: those of them that exist, counted from `first`.
        offset: bytes from a row's first column to padded column `first`.
        feeds: 1 where a row can be packed vector by vector.
    """

    depth: int
    height: int
    inside: int
    there: int
    first: int
    columns: int
    low: int
    high: int
    offset: int
    feeds: int


@inlined
def strip_of(depth: int, height: int, first: int, count: int, view: Any, spec: Any) -> Strip:
    """The strip of `height` padded depth positions and `count` padded columns from `depth` and `first` on."""
    depth -= view.depth_pad
    offset = first - view.col_pad
    low = min(max(-offset, 0), count)
    high = max(min(view.col_size - offset, count), low)
    inside = min(max(depth, 0), view.depth_size)
    there = max(min(depth + height, view.depth_size) - inside, 0)
    plain = view.col_step == stored_bytes_of(spec) and view.col_stride == view.col_up == view.row_up == 1
    framed = (view.depth_mode == ZERO or there == height) and (view.col_mode == ZERO or high - low == count)
    feeds = plain and framed and lanes_of(spec) <= high - low <= FEED_COLUMNS
    return Strip(depth, height, inside, there, first, count, low, high, offset * view.col_step, int(feeds))


@inner
def source(position: int, size: int, mode: int) -> int:
    """Which element lies at a padded position, or -1 for a zero."""
    if 0 <= position < size:
        return position
    if mode == ZERO:
        return -1
    if mode == REPLICATE:
        return 0 if position < 0 else size - 1
    if mode == CIRCULAR:
        return position % size
    # A tile may reach past the padding, further than one reflection; nothing reads what it finds there.
    mirrored = -position if position < 0 else 2 * (size - 1) - position
    return mirrored if 0 <= mirrored < size else -1


@inlined
def clear(to: int, size: int, spec: Any) -> None:
    """Write zeros to `size` bytes, a whole number of vectors."""
    for k in range(0, size, vector_bytes_of(spec)):
        zero_vector(to + k, spec)


@inlined
def pack_vector(to: int, origin: int, pairs: int, count: int, step: int, pitch: int, spec: Any) -> None:
    """Pack one vector of columns for `count` neighbours along depth, `step` bytes apart."""
    tile, pair = tile_of(spec), 2 * wide_bytes_of(spec)
    if count >= tile:
        widen_tile(to, pitch, origin, step, pairs, spec)
        to += tile * pitch
        origin += tile * step
        pairs += tile * pair
        count -= tile
    for _ in range(count):
        widen_vector(to, origin, pairs, spec)
        to += pitch
        origin += step
        pairs += pair


@inner
def pack_columns(to: int, row: int, pairs: int, count: int, step: int, pitch: int, strip: Strip, spec: Any) -> None:
    """Pack the columns that exist, for `count` neighbours along depth."""
    wide, stored, lanes = wide_bytes_of(spec), stored_bytes_of(spec), lanes_of(spec)
    if strip.high - strip.low < lanes:
        for d in range(count):
            for k in range(strip.low, strip.high):
                at, pair = row + d * step + k * stored, pairs + 2 * d * wide
                widen_number(to + d * pitch + k * wide, at, pair, spec)
        return
    k = strip.low
    while k < strip.high:
        # The last vector overlaps the one before it.
        k = min(k, strip.high - lanes)
        pack_vector(to + k * wide, row + k * stored, pairs, count, step, pitch, spec)
        k += lanes


@inner
def pack_plain(to: int, row: int, pairs: int, strip: Strip, view: Any, spec: Any) -> None:
    """Pack a row whose columns lie side by side in memory; `row` is its address at depth 0."""
    wide, step, pitch = wide_bytes_of(spec), view.depth_step, view.pitch
    origin = row + strip.offset
    place = to + (strip.inside - strip.depth) * pitch
    first = pairs + 2 * strip.inside * wide
    pack_columns(place, origin + strip.inside * step, first, strip.there, step, pitch, strip, spec)
    if view.depth_mode != ZERO and strip.there < strip.height:
        for d in range(strip.height):
            depth_at = source(strip.depth + d, view.depth_size, view.depth_mode)
            if depth_at != strip.depth + d and depth_at >= 0:
                at, pair = origin + depth_at * step, pairs + 2 * depth_at * wide
                pack_columns(to + d * pitch, at, pair, np.int64(1), step, pitch, strip, spec)
    if view.col_mode != ZERO and strip.high - strip.low < strip.columns:
        for k in range(strip.columns):
            if not strip.low <= k < strip.high:
                at = row + source(strip.first + k - view.col_pad, view.col_size, view.col_mode) * view.col_step
                for d in range(strip.height):
                    depth_at = source(strip.depth + d, view.depth_size, view.depth_mode)
                    if depth_at >= 0:
                        pair = pairs + 2 * depth_at * wide
                        widen_number(to + d * pitch + k * wide, at + depth_at * step, pair, spec)


@inner
def pack_apart(to: int, row: int, pairs: int, strip: Strip, view: Any, spec: Any) -> None:
    """Pack a row column by column: any layout, stride or spreading."""
    wide = wide_bytes_of(spec)
    for d in range(strip.height):
        depth_at = source(strip.depth + d, view.depth_size, view.depth_mode)
        if depth_at >= 0:
            at, pair = row + depth_at * view.depth_step, pairs + 2 * depth_at * wide
            if view.col_up > 1:
                pack_spread(to, at, pair, strip, view, spec)
            else:
                for phase in range(min(view.col_stride, strip.columns)):
                    pack_phase(to + phase * view.phase, at, pair, phase, strip, view, spec)
        to += view.pitch


@inner
def pack_phase(to: int, row: int, pair: int, phase: int, strip: Strip, view: Any, spec: Any) -> None:
    """Pack every `col_stride`-th column from number `phase` on, side by side."""
    stride = view.col_stride
    at, step = row + strip.offset + phase * view.col_step, stride * view.col_step
    for k in range(phase, strip.columns, stride):
        if strip.low <= k < strip.high:
            widen_number(to, at, pair, spec)
        elif view.col_mode != ZERO:
            position = source(strip.first + k - view.col_pad, view.col_size, view.col_mode)
            if position >= 0:
                widen_number(to, row + position * view.col_step, pair, spec)
        to += wide_bytes_of(spec)
        at += step


@inner
def pack_spread(to: int, row: int, pair: int, strip: Strip, view: Any, spec: Any) -> None:
    """Pack the columns `col_up` apart that elements lie at; between them are zeros."""
    origin = view.col_pad - strip.first  # where the row's first element lies
    position = max(0, -(origin // view.col_up))
    for k in range(position * view.col_up + origin, strip.columns, view.col_up):
        if position < view.col_size:
            widen_number(to + k * wide_bytes_of(spec), row + position * view.col_step, pair, spec)
        position += 1


@inner
def pack(to: int, base: int, pairs: int, row: int, strip: Strip, view: Any, spec: Any) -> None:
    """Pack padded row `row` of a strip.

    Zeros along depth and columns are there already: an item clears its buffer and nothing overwrites them.

    Args:
        to: address of the packed row's slot, `view.lead` bytes before its first column.
        base: address of the volume's first element.
        pairs: address of the volume's first scale and shift.
    """
    row_at, between = row - view.row_pad, False
    if view.row_up > 1:
        row_at, between = row_at // view.row_up, row_at % view.row_up != 0
    row_at = -1 if between else source(row_at, view.row_size, view.row_mode)
    base += row_at * view.row_step
    if row_at < 0:
        clear(to, strip.height * view.pitch, spec)
    elif view.col_step == stored_bytes_of(spec) and view.col_stride == 1 and view.col_up == 1:
        pack_plain(to + view.lead, base, pairs, strip, view, spec)
    else:
        pack_apart(to + view.lead, base, pairs, strip, view, spec)


@inlined
def feed_of(to: int, base: int, row: int, strip: Strip, view: Any) -> tuple[int, int]:
    """Where `feed` packs padded row `row` to and from; (0, 0) where it must be packed at once."""
    row_at = row - view.row_pad
    if strip.feeds == 0 or row_at < 0 or row_at >= view.row_size:
        return 0, 0
    place = to + view.lead + (strip.inside - strip.depth) * view.pitch
    return place, base + row_at * view.row_step + strip.inside * view.depth_step + strip.offset


@inlined
def feed(to: int, origin: int, pairs: int, x: int, strip: Strip, step: int, pitch: int, spec: Any) -> None:
    """Pack the vector of columns at `x`; `pairs` belong to the first depth position that exists.

    Done between vectors that are computed, its memory accesses take place while arithmetic goes on.
    """
    k = min(strip.low + x, strip.high - lanes_of(spec))
    to += k * wide_bytes_of(spec)
    pack_vector(to, origin + k * stored_bytes_of(spec), pairs, strip.there, step, pitch, spec)


@inlined
def feed_rest(to: int, origin: int, pairs: int, x: int, strip: Strip, view: Any, spec: Any) -> None:
    """Pack what `feed` has left of a row from the vector at `x` on."""
    while strip.low + x < strip.high:
        feed(to, origin, pairs, x, strip, view.depth_step, view.pitch, spec)
        x += lanes_of(spec)
