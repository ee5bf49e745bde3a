"""The CPU engine's kernels: a stencil over volumes (depth, rows, columns), and its weight gradient.

Rows of the input are packed into a buffer that stays in the first-level cache: widened to the type
computed in, padded in every mode, gathered from any layout. What follows reads only full vectors from
that buffer, so one short loop serves every stride, dilation, padding, topology and element type.
A plan (a record of int64) says what to do; threads claim its items one by one. An item writes its own
part of the result in an order that nothing else influences, so results do not depend on the threads.

Numba compiles these functions on first use and keeps the machine code on disk.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numba.np.numpy_support import from_dtype

from . import cpu_simd
from .cpu_simd import (
    add_tile,
    claim,
    correlate_tile,
    kernel_of,
    lanes_of,
    load_int,
    load_sums,
    load_tile,
    make_spec,
    multiply_tile,
    narrow_number,
    record_at,
    splat_tile,
    store_tile,
    store_wide,
    stored_bytes_of,
    taps_of,
    tile_of,
    total,
    vector_bytes_of,
    wide_bytes_of,
    widen_number,
    widen_tile,
    widen_vector,
    zero_vector,
)

ZERO, REPLICATE, CIRCULAR, REFLECT = range(4)

#: A tensor to be packed. Steps are bytes between neighbours; `up` spreads its elements with zeros
#: between (the input gradient of a stride); `phase` is the packed distance between the columns that
#: a stride visits first, second, ...; `lead` and `pitch` are bytes before and between packed rows.
VIEW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "address batch_step volume_step depth_step row_step col_step depth_size depth_pad depth_mode "
            "row_size row_pad row_mode row_up col_size col_pad col_mode col_up col_stride phase lead pitch"
        ).split()
    ]
)

#: What one call computes. An output row needs `reach` packed rows, `ring` slots hold them; `blocks` says how many
#: parts an axis is cut into and `block` how long they are; `taps` is a table of byte offsets.
PLAN = np.dtype(
    [
        ("input", VIEW),
        ("grad", VIEW),
        *(
            (name, np.int64)
            for name in (
                "items scratch scratch_size counters weight weight_out weight_in weight_depth weight_row "
                "weight_col bias bias_out bias_depth output output_batch output_volume output_depth "
                "output_row output_col volumes_in volumes_out depth_size depth_blocks rows_size rows_taps "
                "rows_stride rows_dilation rows_block rows_blocks reach ring cols_size cols_taps cols_dilation "
                "cols_block cols_blocks taps bias_sums"
            ).split()
        ),
    ]
)

#: Inner functions need no way in from Python, and no kernel allocates: both cost seconds of compilation.
_LEAN = {"boundscheck": False, "error_model": "numpy", "_nrt": False}
_jit = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_LEAN)


@_jit  # type: ignore[untyped-decorator]
def source(position: int, size: int, mode: int, up: int) -> int:
    """Which element lies at a padded position, or -1 for a zero."""
    if up > 1:
        if position < 0 or position % up:
            return -1
        position //= up
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


@_jit  # type: ignore[untyped-decorator]
def pack_vector(to: int, origin: int, count: int, step: int, pitch: int, spec: Any) -> None:
    """Pack one vector of columns of `count` neighbours along depth, `step` bytes apart."""
    tile = tile_of(spec)
    if count >= tile:
        widen_tile(to, pitch, origin, step, spec)
        to += tile * pitch
        origin += tile * step
        count -= tile
    for _ in range(count):
        widen_vector(to, origin, spec)
        to += pitch
        origin += step


@_jit  # type: ignore[untyped-decorator]
def pack_columns(to: int, row: int, low: int, high: int, count: int, step: int, pitch: int, spec: Any) -> None:
    """Pack columns `low` to `high` of `count` neighbours along depth, `step` bytes apart."""
    wide, stored, lanes = wide_bytes_of(spec), stored_bytes_of(spec), lanes_of(spec)
    k = low
    while k < high:
        if k + lanes > high:
            # The last vector overlaps the one before it.
            k = high - lanes
            if k < low:
                break
        pack_vector(to + k * wide, row + k * stored, count, step, pitch, spec)
        k += lanes
    if high - low < lanes:
        for d in range(count):
            for k in range(low, high):
                widen_number(to + d * pitch + k * wide, row + d * step + k * stored, spec)


@_jit  # type: ignore[untyped-decorator]
def pack_plain(
    to: int, base: int, depth: int, height: int, first: int, count: int, view: Any, spec: Any
) -> None:
    """Pack a row where its columns lie side by side in memory; `base` is the row at depth 0."""
    wide, stored = wide_bytes_of(spec), stored_bytes_of(spec)
    offset = first - view.col_pad
    low = min(max(-offset, 0), count)
    high = max(min(view.col_size - offset, count), low)
    step, pitch = view.depth_step, view.pitch
    row = base + offset * stored
    inside, outside = max(depth, 0), min(depth + height, view.depth_size)
    pack_columns(to + (inside - depth) * pitch, row + inside * step, low, high, outside - inside, step, pitch, spec)
    if view.depth_mode != ZERO:
        for d in range(height):
            if not inside <= depth + d < outside:
                depth_at = source(depth + d, view.depth_size, view.depth_mode, 1)
                if depth_at < 0:
                    continue
                pack_columns(to + d * pitch, row + depth_at * step, low, high, 1, step, pitch, spec)
    if view.col_mode != ZERO:
        for k in range(count):
            if not low <= k < high:
                at = base + source(offset + k, view.col_size, view.col_mode, 1) * stored
                for d in range(height):
                    depth_at = source(depth + d, view.depth_size, view.depth_mode, 1)
                    if depth_at >= 0:
                        widen_number(to + d * pitch + k * wide, at + depth_at * step, spec)


@_jit  # type: ignore[untyped-decorator]
def pack_apart(
    to: int, base: int, depth: int, height: int, first: int, count: int, view: Any, spec: Any
) -> None:
    """Pack a row column by column: any layout, stride or spreading."""
    wide = wide_bytes_of(spec)
    for d in range(depth, depth + height):
        depth_at = source(d, view.depth_size, view.depth_mode, 1)
        if depth_at >= 0:
            row = base + depth_at * view.depth_step
            for k in range(count):
                at = source(first + k - view.col_pad, view.col_size, view.col_mode, view.col_up)
                if at >= 0:
                    place = to + (k % view.col_stride) * view.phase + (k // view.col_stride) * wide
                    widen_number(place, row + at * view.col_step, spec)
        to += view.pitch


@_jit  # type: ignore[untyped-decorator]
def clear(to: int, size: int, spec: Any) -> None:
    """Write zeros to `size` bytes, a whole number of vectors."""
    for k in range(0, size, vector_bytes_of(spec)):
        zero_vector(to + k, spec)


@_jit  # type: ignore[untyped-decorator]
def pack(
    to: int, base: int, depth: int, height: int, row: int, first: int, count: int, view: Any, spec: Any
) -> None:
    """Pack padded row `row` at `height` depth positions from padded position `depth` on.

    Zeros along depth and columns are there already: an item clears its buffer and nothing overwrites them.

    Args:
        to: address of the packed rows' start, `view.lead` bytes before their first column.
        base: address of the volume's first element.
        first, count: the padded columns to pack.
    """
    row_at = source(row - view.row_pad, view.row_size, view.row_mode, view.row_up)
    base += row_at * view.row_step
    depth -= view.depth_pad
    if row_at < 0:
        clear(to, height * view.pitch, spec)
    elif view.col_step == stored_bytes_of(spec) and view.col_stride == 1 and view.col_up == 1:
        pack_plain(to + view.lead, base, depth, height, first, count, view, spec)
    else:
        pack_apart(to + view.lead, base, depth, height, first, count, view, spec)


@_jit  # type: ignore[untyped-decorator]
def place_of(item: int, plan: Any) -> tuple[int, int, int, int, int]:
    """(batch element, output volume, depth block, row block, column block) of an item."""
    item, depth_block = item // plan.depth_blocks, item % plan.depth_blocks
    item, col_block = item // plan.cols_blocks, item % plan.cols_blocks
    item, row_block = item // plan.rows_blocks, item % plan.rows_blocks
    return item // plan.volumes_out, item % plan.volumes_out, depth_block, row_block, col_block


@_jit  # type: ignore[untyped-decorator]
def span_of(x0: int, width: int, plan: Any) -> tuple[int, int]:
    """The first padded column, and how many of them, that `width` outputs from column `x0` on read."""
    stride = plan.input.col_stride
    return x0 * stride, (width - 1) * stride + (plan.cols_taps - 1) * plan.cols_dilation + 1


@_jit  # type: ignore[untyped-decorator]
def pack_ring(
    ring: int, filled: int, end: int, b: int, depth: int, span: tuple[int, int], plan: Any, spec: Any
) -> int:
    """Pack padded rows from `filled` up to `end` into their slots of the ring; the larger of the two."""
    view = plan.input
    height = tile_of(spec) + kernel_of(spec) - 1
    while filled < end:
        for p in range(plan.volumes_in):
            to = ring + (p * plan.ring + filled % plan.ring) * height * view.pitch
            base = view.address + b * view.batch_step + p * view.volume_step
            pack(to, base, depth, height, filled, span[0], span[1], view, spec)
        filled += 1
    return filled


@_jit  # type: ignore[untyped-decorator]
def store_part(out: int, spilled: int, left: int, width: int, plan: Any, spec: Any) -> None:
    """Write what of a tile lies inside the output, number by number."""
    for t in range(left):
        for k in range(width):
            to = out + t * plan.output_depth + k * plan.output_col
            narrow_number(to, spilled + t * vector_bytes_of(spec) + k * wide_bytes_of(spec), spec)


@_jit  # type: ignore[untyped-decorator]
def forward_item(item: int, scratch: int, plan: Any, spec: Any) -> None:
    """Outputs of one tile of depth positions, over a block of rows and columns."""
    tile, lanes, wide, stored = tile_of(spec), lanes_of(spec), wide_bytes_of(spec), stored_bytes_of(spec)
    b, q, depth_block, row_block, col_block = place_of(item, plan)
    depth, x0 = depth_block * tile, col_block * plan.cols_block
    left, width = min(tile, plan.depth_size - depth), min(plan.cols_block, plan.cols_size - x0)
    span = span_of(x0, width, plan)
    bias, bias_step = plan.bias + q * plan.bias_out + depth * plan.bias_depth, plan.bias_depth
    weights, weight_row, weight_col = plan.weight + q * plan.weight_out, plan.weight_row, plan.weight_col
    weight_depth, ring, taps, cols_taps, rows_taps = (
        plan.weight_depth, plan.ring, plan.taps, plan.cols_taps, plan.rows_taps,
    )
    target = plan.output + b * plan.output_batch + q * plan.output_volume + depth * plan.output_depth
    packed, pitch = scratch + tile * vector_bytes_of(spec), plan.input.pitch
    slot_bytes = (tile + kernel_of(spec) - 1) * pitch
    direct = left == tile and plan.output_col == stored
    # Where rows follow one another, a last vector may run into the rows below: they are written later.
    below = plan.cols_size if plan.cols_blocks == 1 and plan.output_row == plan.cols_size * stored else 0
    start, stop = row_block * plan.rows_block, min((row_block + 1) * plan.rows_block, plan.rows_size)
    clear(packed, plan.volumes_in * ring * slot_bytes, spec)
    filled = start * plan.rows_stride
    for i in range(start, stop):
        top = i * plan.rows_stride
        # One row ahead: what was just packed is still on its way to the cache.
        ahead = min(i + 1, stop - 1) * plan.rows_stride
        filled = pack_ring(packed, max(filled, top), ahead + plan.reach, b, depth, span, plan, spec)
        out = target + i * plan.output_row + x0 * plan.output_col
        room = width + (stop - 1 - i) * below if direct else 0
        head = top % ring
        for x in range(0, width, lanes):
            sums = splat_tile(bias, bias_step, spec)
            for p in range(plan.volumes_in):
                slot, weight_at = head, weights + p * plan.weight_in
                rows = packed + plan.input.lead + p * ring * slot_bytes + x * wide
                for _ in range(rows_taps):
                    row, weight = rows + slot * slot_bytes, weight_at
                    for c in range(cols_taps):
                        sums = multiply_tile(sums, row + load_int(taps + 8 * c), pitch, weight, weight_depth, spec)
                        weight += weight_col
                    weight_at += weight_row
                    slot += plan.rows_dilation
                    slot -= ring if slot >= ring else 0
            if x + lanes <= room:
                store_tile(out + x * stored, plan.output_depth, sums, spec)
            else:
                store_wide(scratch, vector_bytes_of(spec), sums, spec)
                store_part(out + x * plan.output_col, scratch, left, min(lanes, width - x), plan, spec)


@_jit  # type: ignore[untyped-decorator]
def add_bias_sums(sums: int, grads: int, pitch: int, width: int, spec: Any) -> None:
    """Add a packed tile of gradient rows into one vector a depth position."""
    step = vector_bytes_of(spec)
    tile = load_tile(sums, step, spec)
    for x in range(0, width, lanes_of(spec)):
        tile = add_tile(tile, grads + x * wide_bytes_of(spec), pitch, spec)
    store_wide(sums, step, tile, spec)


@_jit  # type: ignore[untyped-decorator]
def correlate_item(item: int, scratch: int, plan: Any, spec: Any) -> None:
    """One item's share of every weight's and bias's gradient, as float64 sums of their own."""
    tile, lanes, wide, step = tile_of(spec), lanes_of(spec), wide_bytes_of(spec), vector_bytes_of(spec)
    kernel, taps = kernel_of(spec), taps_of(spec)
    height = tile + kernel - 1
    b, q, depth_block, row_block, col_block = place_of(item, plan)
    depth, x0 = depth_block * tile, col_block * plan.cols_block
    width = min(plan.cols_block, plan.cols_size - x0)
    span = span_of(x0, width, plan)
    grad, pitch, group = plan.grad, plan.input.pitch, kernel * taps * step
    sums_count = plan.volumes_in * plan.rows_taps * (plan.cols_taps // taps) * kernel * taps
    bias_sums = scratch
    sums = bias_sums + tile * step
    grads = sums + sums_count * step
    ring = grads + tile * grad.pitch
    clear(scratch, ring + plan.volumes_in * plan.ring * height * pitch - scratch, spec)
    grad_base = grad.address + b * grad.batch_step + q * grad.volume_step
    filled = 0
    stop = min((row_block + 1) * plan.rows_block, plan.rows_size)
    for i in range(row_block * plan.rows_block, stop):
        top = i * plan.rows_stride
        filled = pack_ring(ring, max(filled, top), top + plan.reach, b, depth, span, plan, spec)
        pack(grads, grad_base, depth, tile, i, x0, width, grad, spec)
        if plan.bias_sums:
            add_bias_sums(bias_sums, grads, grad.pitch, width, spec)
        part = sums
        for p in range(plan.volumes_in):
            for a in range(plan.rows_taps):
                slot = p * plan.ring + (top + a * plan.rows_dilation) % plan.ring
                row = ring + slot * height * pitch + plan.input.lead
                for c in range(0, plan.cols_taps, taps):
                    totals, taps_at = load_sums(part, step, spec), plan.taps + 8 * c
                    for x in range(0, width * wide, lanes * wide):
                        totals = correlate_tile(totals, grads + x, grad.pitch, row + x, pitch, taps_at, spec)
                    store_wide(part, step, totals, spec)
                    part += group
    for k in range(sums_count):
        total(plan.output + (item * sums_count + k) * 8, sums + k * step, spec)
    if plan.bias_sums:
        for t in range(tile):
            total(plan.bias_sums + (item * tile + t) * 8, bias_sums + t * step, spec)


@_jit  # type: ignore[untyped-decorator]
def forward_items(plan: Any, spec: Any) -> None:
    scratch = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    item = claim(plan.counters)
    while item < plan.items:
        forward_item(item, scratch, plan, spec)
        item = claim(plan.counters)


@_jit  # type: ignore[untyped-decorator]
def correlate_items(plan: Any, spec: Any) -> None:
    scratch = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    item = claim(plan.counters)
    while item < plan.items:
        correlate_item(item, scratch, plan, spec)
        item = claim(plan.counters)


_PLAN_POINTER = types.CPointer(from_dtype(PLAN))


def _digest() -> str:
    """A hash of the kernels' sources: machine code cached from other sources is not found."""
    sources = [Path(cpu_simd.__file__), Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


@cache
def compiled(job: str, storage: str, kernel: int, taps: int, tile: int, lanes: int) -> Any:
    """The machine code of a job ("forward" or "correlate"), from disk where it has been compiled before.

    Returns:
        a Numba cfunc that takes the address of a `PLAN`; its `address` is callable from any thread.
    """
    digest = _digest()

    def forward(plan: Any) -> None:
        digest  # noqa: B018 - part of the key under which Numba caches
        forward_items(record_at(plan), make_spec(storage, kernel, taps, tile, lanes))

    def correlate(plan: Any) -> None:
        digest  # noqa: B018
        correlate_items(record_at(plan), make_spec(storage, kernel, taps, tile, lanes))

    function = forward if job == "forward" else correlate
    signature = types.void(_PLAN_POINTER)
    try:
        return cfunc(signature, cache=True, **_LEAN)(function)
    except RuntimeError as error:
        # Nowhere to write (a read-only installation without a home): compile for this process only.
        if "cannot cache" not in str(error):
            raise
        return cfunc(signature, **_LEAN)(function)
