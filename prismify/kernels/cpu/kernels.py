"""The CPU engine's kernels: a stencil over volumes (depth, rows, columns), and its weight gradient.

A plan (a record of int64) says what to do; threads claim its items one by one. An item packs rows
(see `pack`), keeps a ring of them, and computes one row of a tile of depth positions at a time, for
several output volumes, which all read the same packed rows. It writes its own part of the result in an
order that nothing else influences, so results do not depend on the threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .pack import VIEW, Strip, clear, feed, feed_of, feed_rest, pack, strip_of
from .parts import inlined, inner
from .simd import (
    add_number,
    add_stored,
    add_tile,
    claim,
    correlate_tile,
    load_float,
    load_int,
    load_sums,
    load_tile,
    multiply_tile,
    narrow_number,
    prefetch_outputs,
    prefetch_rows,
    prefetch_tile,
    splat_tile,
    store_as_stored,
    store_tile,
    store_wide,
    total,
)
from .vectors import (
    for_packing,
    kernel_of,
    lanes_of,
    plainly,
    stored_bytes_of,
    taps_of,
    tile_of,
    vector_bytes_of,
    wide_bytes_of,
)

#: What one call computes. `blocks` says how many parts an axis is cut into and `block` how long they are;
#: an output row needs `reach` packed rows, and `ring` slots hold them; `taps` says for every slot that the first of
#: them may lie in, and for each of `taps_count` taps, how many bytes its packed row and its weight are away;
#: `columns` has the same for the taps of one row, and `order` is a table of byte offsets, too; `grads` and
#: `bias_grads` are where gradients go, and `output` then holds the sums they are made of; `residual` is how many bytes
#: after an output the number lies that is added to it, or 0 for none.
PLAN = np.dtype(
    [
        ("input", VIEW),
        ("grad", VIEW),
        *(
            (name, np.int64)
            for name in """
                items scratch scratch_size counters
                weight weight_out weight_depth weight_col
                bias bias_out bias_depth bias_sums bias_grads bias_count grads grads_count order
                output output_batch output_volume output_depth output_row output_col residual
                volumes_in volumes_out volumes_block volumes_blocks depth_size depth_blocks
                rows_size rows_taps rows_stride rows_dilation rows_block rows_blocks reach ring
                cols_size cols_taps cols_dilation cols_block cols_blocks columns taps taps_count
            """.split()  # noqa: SIM905
        ),
    ]
)


@inner
def place_of(item: int, plan: Any) -> tuple[int, int, int, int, int]:
    """(batch element, block of output volumes, depth block, row block, column block) of an item."""
    item, depth_block = item // plan.depth_blocks, item % plan.depth_blocks
    item, col_block = item // plan.cols_blocks, item % plan.cols_blocks
    item, row_block = item // plan.rows_blocks, item % plan.rows_blocks
    return item // plan.volumes_blocks, item % plan.volumes_blocks, depth_block, row_block, col_block


@inlined
def input_strip(depth: int, x0: int, width: int, plan: Any, spec: Any) -> Strip:
    """What `width` outputs from column `x0` on read of the input's rows, for a tile of depth positions."""
    stride = plan.input.col_stride
    count = (width - 1) * stride + (plan.cols_taps - 1) * plan.cols_dilation + 1
    return strip_of(depth, tile_of(spec) + kernel_of(spec) - 1, x0 * stride, count, plan.input, for_packing(spec))


@inner
def advance(
    ring: int, filled: int, needed: int, end: int, base: int, pairs: int, strip: Strip, plan: Any, spec: Any
) -> tuple[int, int]:
    """Pack padded rows `filled` to `end` into the ring. A last one from row `needed` on may be fed instead.

    Returns:
        where it is to be fed to and from, or (0, 0).
    """
    slot_bytes = strip.height * plan.input.pitch
    while filled < end:
        slot = filled % plan.ring
        if filled >= needed and filled == end - 1 and plan.volumes_in == 1:
            place, origin = feed_of(ring + slot * slot_bytes, base, filled, strip, plan.input)
            if place:
                return place, origin
        for p in range(plan.volumes_in):
            to = ring + (p * plan.ring + slot) * slot_bytes
            at, pair = base + p * plan.input.volume_step, pairs + p * plan.input.pairs_volume
            pack(to, at, pair, filled, strip, plan.input, spec)
        filled += 1
    return 0, 0


@inlined
def convolve(sums: Any, packed: int, weights: int, taps: int, count: int, pitch: int, depth: int, spec: Any) -> Any:
    """Add to a tile of sums the packed rows, `pitch` bytes apart, that a table of `count` taps names, weighted.

    One loop over a table, rather than one for each axis, leaves the registers to what is computed.
    """
    for _ in range(count):
        sums = multiply_tile(sums, packed + load_int(taps), pitch, weights + load_int(taps + 8), depth, spec)
        taps += 16
    return sums


@inner
def store_part(out: int, spilled: int, left: int, width: int, plan: Any, spec: Any) -> None:
    """Write what of a tile lies inside the output, number by number."""
    for t in range(left):
        for k in range(width):
            to = out + t * plan.output_depth + k * plan.output_col
            number = spilled + t * vector_bytes_of(spec) + k * wide_bytes_of(spec)
            if plan.residual:
                add_number(number, to + plan.residual, spec)
            narrow_number(to, number, spec)


@inner
def forward_item(item: int, scratch: int, plan: Any, spec: Any) -> None:
    """Outputs of one tile of depth positions, over a block of output volumes, rows and columns."""
    tile, lanes, wide, stored = tile_of(spec), lanes_of(spec), wide_bytes_of(spec), stored_bytes_of(spec)
    b, volumes, depth_block, row_block, col_block = place_of(item, plan)
    depth, x0 = depth_block * tile, col_block * plan.cols_block
    left, width = min(tile, plan.depth_size - depth), min(plan.cols_block, plan.cols_size - x0)
    view, strip = plan.input, input_strip(depth, x0, width, plan, spec)
    base, pairs = view.address + b * view.batch_step, view.pairs + b * view.pairs_batch
    first_pair = pairs + 2 * strip.inside * wide
    corner = base + strip.inside * view.depth_step + strip.offset
    first_volume = volumes * plan.volumes_block
    first_target = plan.output + b * plan.output_batch + depth * plan.output_depth
    ring, pitch = scratch + tile * vector_bytes_of(spec), view.pitch
    count, weight_depth = plan.taps_count, plan.weight_depth
    direct = left == tile and plan.output_col == stored
    # Where rows follow one another, a last vector may run into the rows below: they are written later.
    below = plan.cols_size if plan.cols_blocks == 1 and plan.output_row == plan.cols_size * stored else 0
    start, stop = row_block * plan.rows_block, min((row_block + 1) * plan.rows_block, plan.rows_size)
    clear(ring, plan.volumes_in * plan.ring * strip.height * pitch, for_packing(spec))
    filled = start * plan.rows_stride
    for i in range(start, stop):
        top = i * plan.rows_stride
        # One row ahead: what was just packed is still on its way to the cache.
        end = min(i + 1, stop - 1) * plan.rows_stride + plan.reach
        feed_to, feed_from = advance(
            ring, max(filled, top), top + plan.reach, end, base, pairs, strip, plan, for_packing(spec)
        )
        filled = max(filled, end)
        coming = corner + (filled - view.row_pad) * view.row_step
        room, taps = width + (stop - 1 - i) * below if direct else 0, plan.taps + top % plan.ring * count * 16
        for q in range(first_volume, first_volume + plan.volumes_block):
            weights, bias = plan.weight + q * plan.weight_out, plan.bias + q * plan.bias_out + depth * plan.bias_depth
            out = first_target + q * plan.output_volume + i * plan.output_row + x0 * plan.output_col
            for x in range(0, width, lanes):
                if feed_to:
                    feed(feed_to, feed_from, first_pair, x, strip, view.depth_step, view.pitch, for_packing(spec))
                if not x * stored & 63:  # once a cache line
                    prefetch_outputs(out + plan.output_row + x * stored, plan.output_depth, spec)
                    prefetch_rows(coming + x * stored, view.depth_step, spec)
                sums = splat_tile(bias, plan.bias_depth, spec)
                sums = convolve(sums, ring + view.lead + x * wide, weights, taps, count, pitch, weight_depth, spec)
                if x + lanes <= room:
                    if plan.residual:
                        sums = add_stored(sums, out + x * stored + plan.residual, plan.output_depth, spec)
                    store_tile(out + x * stored, plan.output_depth, sums, spec)
                else:
                    store_wide(scratch, vector_bytes_of(spec), sums, spec)
                    store_part(out + x * plan.output_col, scratch, left, min(lanes, width - x), plan, spec)
            if feed_to:
                feed_rest(feed_to, feed_from, first_pair, -(-width // lanes) * lanes, strip, view, for_packing(spec))
                feed_to = 0  # once for all volumes


class Taps(NamedTuple):
    """What the weight gradient's loops read of a plan, kept in registers: see `PLAN` and `VIEW`."""

    volumes_in: int
    rows_taps: int
    cols_taps: int
    rows_dilation: int
    columns: int
    ring: int
    slot_bytes: int
    pitch: int


@inlined
def taps_of_plan(plan: Any, spec: Any) -> Taps:
    pitch = plan.input.pitch
    slot_bytes = (tile_of(spec) + kernel_of(spec) - 1) * pitch
    return Taps(
        plan.volumes_in, plan.rows_taps, plan.cols_taps, plan.rows_dilation, plan.columns, plan.ring, slot_bytes, pitch
    )


@inner
def add_bias_sums(sums: int, grads: int, pitch: int, width: int, spec: Any) -> None:
    """Add a tile of gradient rows into one vector a depth position."""
    step = vector_bytes_of(spec)
    tile = load_tile(sums, step, spec)
    for x in range(0, width, lanes_of(spec)):
        tile = add_tile(tile, grads + x * wide_bytes_of(spec), pitch, spec)
    store_wide(sums, step, tile, spec)


@inner
def correlate_row(
    sums: int, grads: int, grad_pitch: int, packed: int, slot: int, width: int, taps: Taps, spec: Any
) -> None:
    """Add one row's products of gradients and packed inputs, from slot `slot` on, to all sums."""
    wide, step, group = wide_bytes_of(spec), vector_bytes_of(spec), taps_of(spec)
    for p in range(taps.volumes_in):
        at = slot
        for _ in range(taps.rows_taps):
            row = packed + (p * taps.ring + at) * taps.slot_bytes
            for c in range(0, taps.cols_taps, group):
                totals, table = load_sums(sums, step, spec), taps.columns + 8 * c
                for x in range(0, width * wide, step):
                    totals = correlate_tile(totals, grads + x, grad_pitch, row + x, taps.pitch, table, spec)
                store_wide(sums, step, totals, spec)
                sums += kernel_of(spec) * group * step
            at += taps.rows_dilation
            at -= taps.ring if at >= taps.ring else 0


@inner
def correlate_item(item: int, scratch: int, plan: Any, spec: Any) -> None:
    """One item's share of every weight's and bias's gradient, as float64 sums of their own."""
    tile, lanes, wide, step = tile_of(spec), lanes_of(spec), wide_bytes_of(spec), vector_bytes_of(spec)
    stored, taps, volumes_block = stored_bytes_of(spec), taps_of_plan(plan, spec), plan.volumes_block
    b, volumes, depth_block, row_block, col_block = place_of(item, plan)
    depth, x0 = depth_block * tile, col_block * plan.cols_block
    width = min(plan.cols_block, plan.cols_size - x0)
    view, strip = plan.input, input_strip(depth, x0, width, plan, spec)
    base, pairs = view.address + b * view.batch_step, view.pairs + b * view.pairs_batch
    first_pair = pairs + 2 * strip.inside * wide
    corner = base + strip.inside * view.depth_step + strip.offset
    grad, grad_strip = plan.grad, strip_of(depth, tile, x0, width, plan.grad, for_packing(spec))
    first_grad = grad.address + b * grad.batch_step + volumes * volumes_block * grad.volume_step
    # Gradients are read where they lie if they need neither widening nor zeros around them.
    direct = stored == wide and grad.col_step == stored and width % lanes == 0 and grad_strip.there == tile
    sums_count = taps.volumes_in * taps.rows_taps * taps.cols_taps * kernel_of(spec)
    bias_sums, sums = scratch, scratch + volumes_block * tile * step
    ring = sums + volumes_block * sums_count * step
    packed_grads = ring + taps.volumes_in * taps.ring * taps.slot_bytes
    clear(scratch, packed_grads + tile * grad.pitch - scratch, spec)
    start, stop = row_block * plan.rows_block, min((row_block + 1) * plan.rows_block, plan.rows_size)
    filled = start * plan.rows_stride
    for i in range(start, stop):
        top = i * plan.rows_stride
        end = min(i + 1, stop - 1) * plan.rows_stride + plan.reach
        feed_to, feed_from = advance(
            ring, max(filled, top), top + plan.reach, end, base, pairs, strip, plan, for_packing(spec)
        )
        filled = max(filled, end)
        coming = corner + (filled - view.row_pad) * view.row_step
        for v in range(volumes_block):
            grads, grad_pitch, grad_base = packed_grads, grad.pitch, first_grad + v * grad.volume_step
            grad_row = grad_base + depth * grad.depth_step + i * grad.row_step + x0 * grad.col_step
            if direct:
                grads, grad_pitch = grad_row, grad.depth_step
            else:
                # A number as it stands would be a type of its own, and what is called compiled once more.
                pack(packed_grads, grad_base, np.int64(0), i, grad_strip, grad, plainly(for_packing(spec)))
            if plan.bias_sums:
                add_bias_sums(bias_sums + v * tile * step, grads, grad_pitch, width, spec)
            for x in range(0, width, lanes):
                if feed_to:
                    feed(feed_to, feed_from, first_pair, x, strip, view.depth_step, view.pitch, for_packing(spec))
                prefetch_rows(coming + x * stored, view.depth_step, spec)
                prefetch_tile(grad_row + grad.row_step + x * stored, grad.depth_step, spec)
            if feed_to:
                feed_rest(feed_to, feed_from, first_pair, -(-width // lanes) * lanes, strip, view, for_packing(spec))
                feed_to = 0  # once for all volumes
            own = sums + v * sums_count * step
            correlate_row(own, grads, grad_pitch, ring + view.lead, top % taps.ring, width, taps, spec)
    for k in range(volumes_block * sums_count):
        total(plan.output + (item * volumes_block * sums_count + k) * 8, sums + k * step, spec)
    if plan.bias_sums:
        for t in range(volumes_block * tile):
            total(plan.bias_sums + (item * volumes_block * tile + t) * 8, bias_sums + t * step, spec)


@inner
def strided_sum(address: int, outer: int, outer_step: int, count: int, step: int) -> float:
    """The sum of `outer` rows of `count` float64, in order; steps are in bytes."""
    added = 0.0
    for _ in range(outer):
        at = address
        for _ in range(count):
            added += load_float(at)
            at += step
        address += outer_step
    return added


@inner
def write_gradients(plan: Any, spec: Any) -> None:
    """The gradients of weights and bias, from the sums of every item (see `place_of` for their order).

    The thread that finishes the last item adds them up: in small calls, a dozen calls of torch would take longer than
    everything before them.
    """
    stored, tile_bytes = stored_bytes_of(spec), tile_of(spec) * 8
    sums_count = plan.volumes_in * plan.rows_taps * plan.cols_taps * kernel_of(spec)
    blocks, block = plan.depth_blocks * plan.cols_blocks * plan.rows_blocks, plan.volumes_block
    batch, every = plan.items // (plan.volumes_blocks * blocks), plan.volumes_out * blocks
    for k in range(plan.grads_count):
        first = plan.output + load_int(plan.order + 8 * k)
        added = strided_sum(first, batch, every * sums_count * 8, blocks, block * sums_count * 8)
        store_as_stored(plan.grads + k * stored, added, spec)
    if plan.bias_sums:
        for k in range(plan.bias_count):
            q = k if plan.bias_count == plan.volumes_out else k // plan.depth_size
            first = plan.bias_sums + (q // block * blocks * block + q % block) * tile_bytes
            added = 0.0
            if plan.bias_count == plan.volumes_out:
                for b in range(batch):
                    added += strided_sum(
                        first + b * every * tile_bytes, blocks, block * tile_bytes, tile_of(spec), np.int64(8)
                    )
            else:
                d = k % plan.depth_size
                first += d // tile_of(spec) * block * tile_bytes + d % tile_of(spec) * 8
                count, step = plan.cols_blocks * plan.rows_blocks, plan.depth_blocks * block * tile_bytes
                added = strided_sum(first, batch, every * tile_bytes, count, step)
            store_as_stored(plan.bias_grads + k * stored, added, spec)


@inner
def forward_items(plan: Any, spec: Any) -> None:
    scratch = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    item = claim(plan.counters)
    while item < plan.items:
        forward_item(item, scratch, plan, spec)
        item = claim(plan.counters)


@inner
def correlate_items(plan: Any, spec: Any) -> None:
    scratch = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    item = claim(plan.counters)
    while item < plan.items:
        correlate_item(item, scratch, plan, spec)
        if claim(plan.counters + 16) == plan.items - 1:
            write_gradients(plan, spec)
        item = claim(plan.counters)
