"""The stencil along columns that lie side by side in memory, such as the channels of tokens: read where they lie.

A number is used a few times by its neighbours and never again, so that packing it would take longer than computing with
it. Every vector is loaded once, and shifted against the one before and the one after it in registers; what lies beyond
a row's ends stands in two vectors of their own.
"""

from __future__ import annotations

from typing import Any

from .kernels import place_of
from .pack import clear, inlined, inner, source
from .simd import (
    add_one,
    claim,
    load_stored,
    load_wide,
    shifted_sum,
    splat_one,
    splat_weights,
    store_one,
    widen_number,
)
from .vectors import kernel_of, lanes_of, stored_bytes_of, tile_of, vector_bytes_of, wide_bytes_of


@inlined
def beyond(to: int, row: int, pair: int, position: int, plan: Any, spec: Any) -> None:
    """Write the numbers of a row from `position` on that a stencil reaches; beyond its ends, what pads it."""
    view = plan.input
    for k in range(kernel_of(spec) // 2):
        at = source(position + k, view.col_size, view.col_mode, 1)
        if at >= 0:
            widen_number(to + k * wide_bytes_of(spec), row + at * stored_bytes_of(spec), pair, spec)


@inlined
def put(out: int, sums: Any, plan: Any, spec: Any) -> None:
    if plan.residual:
        sums = add_one(sums, out + plan.residual, spec)
    store_one(out, sums, spec)


@inner
def filter_row(row: int, pair: int, out: int, weight: int, bias: int, ends: int, plan: Any, spec: Any) -> None:
    """One row of one output volume.

    Args:
        pair: address of the scale and shift of the row's channel, where the input is packed.
        ends: where three vectors stand: what comes before the row, after it, and after its last whole vector but one.
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


@inner
def rows_item(item: int, ends: int, plan: Any, spec: Any) -> None:
    """A tile of rows, over a block of output volumes."""
    b, volumes, block, _, _ = place_of(item, plan)
    lanes, step, size = lanes_of(spec), vector_bytes_of(spec), plan.cols_size
    reach = kernel_of(spec) // 2
    first_volume = volumes * plan.volumes_block
    for depth in range(block * tile_of(spec), min((block + 1) * tile_of(spec), plan.depth_size)):
        row = plan.input.address + b * plan.input.batch_step + depth * plan.input.depth_step
        pair = plan.input.pairs + b * plan.input.pairs_batch + 2 * depth * wide_bytes_of(spec)
        if plan.input.col_mode:
            beyond(ends + step - reach * wide_bytes_of(spec), row, pair, -reach, plan, spec)
            beyond(ends + step, row, pair, size, plan, spec)
        if size % lanes:
            beyond(ends + 2 * step, row, pair, size - size % lanes, plan, spec)
        out = plan.output + b * plan.output_batch + depth * plan.output_depth
        for q in range(first_volume, first_volume + plan.volumes_block):
            bias = plan.bias + q * plan.bias_out + depth * plan.bias_depth
            filter_row(
                row, pair, out + q * plan.output_volume, plan.weight + q * plan.weight_out, bias, ends, plan, spec
            )


@inner
def rows_items(plan: Any, spec: Any) -> None:
    ends = plan.scratch + claim(plan.counters + 8) * plan.scratch_size
    clear(ends, plan.scratch_size, spec)  # zeros stay where nothing is
    item = claim(plan.counters)
    while item < plan.items:
        rows_item(item, ends, plan, spec)
        item = claim(plan.counters)
