"""The end of the CPU's weight gradient: what the pieces of work added up, added up in order, and written.

Done where the sums are, by the thread that finishes the last piece: in small calls, a dozen calls of torch
would take longer than everything before them.
"""

from __future__ import annotations

from typing import Any

from .pack import inner
from .simd import load_float, load_int, store_as_stored
from .vectors import kernel_of, stored_bytes_of, tile_of


@inner
def strided_sum(address: int, outer: int, outer_step: int, count: int, step: int) -> float:
    """The sum of `outer` rows of `count` float64, in order; steps are in bytes."""
    total = 0.0
    for _ in range(outer):
        at = address
        for _ in range(count):
            total += load_float(at)
            at += step
        address += outer_step
    return total


@inner
def write_gradients(plan: Any, spec: Any) -> None:
    """The gradients of weights and bias, from the sums of every item (see `kernels.place_of` for their order)."""
    stored, tile_bytes = stored_bytes_of(spec), tile_of(spec) * 8
    sums_count = plan.volumes_in * plan.rows_taps * plan.cols_taps * kernel_of(spec)
    blocks, block = plan.depth_blocks * plan.cols_blocks * plan.rows_blocks, plan.volumes_block
    batch, every = plan.items // (plan.volumes_blocks * blocks), plan.volumes_out * blocks
    for k in range(plan.grads_count):
        first = plan.output + load_int(plan.order + 8 * k)
        total = strided_sum(first, batch, every * sums_count * 8, blocks, block * sums_count * 8)
        store_as_stored(plan.grads + k * stored, total, spec)
    if plan.bias_sums:
        for k in range(plan.bias_count):
            q = k if plan.bias_count == plan.volumes_out else k // plan.depth_size
            first = plan.bias_sums + (q // block * blocks * block + q % block) * tile_bytes
            total = 0.0
            if plan.bias_count == plan.volumes_out:
                for b in range(batch):
                    total += strided_sum(first + b * every * tile_bytes, blocks, block * tile_bytes, tile_of(spec), 8)
            else:
                d = k % plan.depth_size
                first += d // tile_of(spec) * block * tile_bytes + d % tile_of(spec) * 8
                count, step = plan.cols_blocks * plan.rows_blocks, plan.depth_blocks * block * tile_bytes
                total = strided_sum(first, batch, every * tile_bytes, count, step)
            store_as_stored(plan.bias_grads + k * stored, total, spec)
