"""The stencil along columns that lie side by side in memory, such as the channels of tokens: read where they lie.

A number is used a few times by its neighbours and never again, so that packing it would take longer than computing with
it. Every vector is loaded once, and shifted against the one before and the one after it in registers; what lies beyond
a row's ends stands in two vectors of their own.
"""

from __future__ import annotations

from typing import Any

from .kernels import place_of, write_gradients
from .pack import clear, source
from .parts import inlined, inner
from .simd import claim, splat_weights, store_float, store_wide, total, widen_number
from .single import (
    add_one,
    load_stored,
    load_wide,
    no_products,
    one,
    product,
    shifted_products,
    shifted_sum,
    splat_one,
    store_one,
)
from .vectors import kernel_of, lanes_of, plainly, stored_bytes_of, tile_of, vector_bytes_of, wide_bytes_of

#: Vectors that stand for what lies beyond a row; see `filter_row`.
ENDS = 4


@inlined
def beyond(to: int, row: int, pair: int, position: int, plan: Any, spec: Any) -> None:
    """Write the numbers of a row from `position` on that a stencil reaches; beyond its ends, what pads it."""
    view = plan.input
    for k in range(kernel_of(spec) // 2):
        at = source(position + k, view.col_size, view.col_mode)
        if at >= 0:
            widen_number(to + k * wide_bytes_of(spec), row + at * stored_bytes_of(spec), pair, spec)


@inlined
def put(out: int, sums: Any, plan: Any, spec: Any) -> None:
    if plan.residual:
        sums = add_one(sums, out + plan.residual, spec)
    store_one(out, sums, spec)


@inlined
def filter_row(row: int, pair: int, out: int, weight: int, bias: int, ends: int, plan: Any, spec: Any) -> None:
    """One row of one output volume.

    Args:
        pair: address of the scale and shift of the row's channel, where the input is packed.
        ends: where `ENDS` vectors stand: what comes before the row, after it, and after its last whole vector but one;
            and 1 for those numbers of the last vector that no other holds.
    """
    lanes, stored, step, size = lanes_of(spec), stored_bytes_of(spec), vector_bytes_of(spec), plan.cols_size
    weights, start = splat_weights(weight, plan.weight_col, spec), splat_one(bias, spec)
    before, here, x = load_wide(ends, spec), load_stored(row, pair, spec), 0
    while x + 2 * lanes <= size:
        after = load_stored(row + (x + lanes) * stored, pair, spec)
        put(out + x * stored, shifted_sum(start, before, here, after, weights, spec), plan, spec)
        before, here = here, after
        x += lanes
    last = size - lanes
    if x < last:
        after = load_wide(ends + 2 * step, spec)
        put(out + x * stored, shifted_sum(start, before, here, after, weights, spec), plan, spec)
        # The last vector overlaps the one before it.
        before = load_stored(row + (last - lanes) * stored, pair, spec)
        here = load_stored(row + last * stored, pair, spec)
    after = load_wide(ends + step, spec)
    put(out + last * stored, shifted_sum(start, before, here, after, weights, spec), plan, spec)


@inlined
def row_of(b: int, depth: int, ends: int, plan: Any, spec: Any) -> tuple[int, int]:
    """The address of a row, whose ends are written, and that of its channel's scale and shift."""
    lanes, step, wide, size = lanes_of(spec), vector_bytes_of(spec), wide_bytes_of(spec), plan.cols_size
    reach = kernel_of(spec) // 2
    row = plan.input.address + b * plan.input.batch_step + depth * plan.input.depth_step
    pair = plan.input.pairs + b * plan.input.pairs_batch + 2 * depth * wide
    if plan.input.col_mode:
        beyond(ends + step - reach * wide, row, pair, -reach, plan, spec)
        beyond(ends + step, row, pair, size, plan, spec)
    if size % lanes:
        beyond(ends + 2 * step, row, pair, size - size % lanes, plan, spec)
    return row, pair


@inner
def rows_item(item: int, ends: int, plan: Any, spec: Any) -> None:
    """A tile of rows, over a block of output volumes."""
    b, volumes, block, _, _ = place_of(item, plan)
    first_volume = volumes * plan.volumes_block
    for depth in range(block * tile_of(spec), min((block + 1) * tile_of(spec), plan.depth_size)):
        row, pair = row_of(b, depth, ends, plan, spec)
        out = plan.output + b * plan.output_batch + depth * plan.output_depth
        for q in range(first_volume, first_volume + plan.volumes_block):
            bias, weight = plan.bias + q * plan.bias_out + depth * plan.bias_depth, plan.weight + q * plan.weight_out
            filter_row(row, pair, out + q * plan.output_volume, weight, bias, ends, plan, spec)


@inlined
def correlate_row(row: int, pair: int, grad: int, ends: int, sums: Any, plan: Any, spec: Any) -> Any:
    """Add one row's products of gradients and shifted inputs to `sums`, and behind those the gradients themselves."""
    lanes, stored, step, size = lanes_of(spec), stored_bytes_of(spec), vector_bytes_of(spec), plan.cols_size
    before, here, x = load_wide(ends, spec), load_stored(row, pair, spec), 0
    while x + 2 * lanes <= size:
        after = load_stored(row + (x + lanes) * stored, pair, spec)
        sums = shifted_products(sums, before, here, after, load_stored(grad + x * stored, 0, plainly(spec)), spec)
        before, here = here, after
        x += lanes
    last = size - lanes
    grads = load_stored(grad + last * stored, 0, plainly(spec))
    if x < last:
        after = load_wide(ends + 2 * step, spec)
        sums = shifted_products(sums, before, here, after, load_stored(grad + x * stored, 0, plainly(spec)), spec)
        # The last vector overlaps the one before it: what that one has counted is nothing here.
        before = load_stored(row + (last - lanes) * stored, pair, spec)
        here = load_stored(row + last * stored, pair, spec)
        grads = product(grads, load_wide(ends + 3 * step, spec), spec)
    return shifted_products(sums, before, here, load_wide(ends + step, spec), grads, spec)


@inner
def correlate_rows_item(item: int, ends: int, plan: Any, spec: Any) -> None:
    """A tile's share of the gradients of weights and bias, as float64 sums of their own."""
    b, volumes, block, _, _ = place_of(item, plan)
    step, kernel, tile, count = vector_bytes_of(spec), kernel_of(spec), tile_of(spec), plan.volumes_block
    scratch = ends + ENDS * step
    for q in range(count):
        sums = no_products(spec)
        grads = plan.grad.address + b * plan.grad.batch_step + (volumes * count + q) * plan.grad.volume_step
        for depth in range(block * tile, min((block + 1) * tile, plan.depth_size)):
            row, pair = row_of(b, depth, ends, plan, spec)
            sums = correlate_row(row, pair, grads + depth * plan.grad.depth_step, ends, sums, plan, spec)
        store_wide(scratch, step, sums, spec)
        own = item * count + q
        for c in range(kernel):
            total(plan.output + (own * kernel + c) * 8, scratch + c * step, spec)
        if plan.bias_sums:
            for t in range(1, tile):
                store_float(plan.bias_sums + (own * tile + t) * 8, 0.0)
            total(plan.bias_sums + own * tile * 8, scratch + kernel * step, spec)


@inner
def correlate_rows_items(plan: Any, spec: Any) -> None:
    ends = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    clear(ends, plan.scratch_size, spec)
    for k in range(lanes_of(spec) - plan.cols_size % lanes_of(spec), lanes_of(spec)):
        one(ends + ENDS * vector_bytes_of(spec) - vector_bytes_of(spec) + k * wide_bytes_of(spec), spec)
    item = claim(plan.counters)
    while item < plan.items:
        correlate_rows_item(item, ends, plan, spec)
        if claim(plan.counters + 16) == plan.items - 1:
            write_gradients(plan, spec)
        item = claim(plan.counters)


@inner
def rows_items(plan: Any, spec: Any) -> None:
    ends = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    clear(ends, plan.scratch_size, spec)  # zeros stay where nothing is
    item = claim(plan.counters)
    while item < plan.items:
        rows_item(item, ends, plan, spec)
        item = claim(plan.counters)
