"""Plans: the records of integers that tell the compiled CPU kernels what to do."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ..axes import MAX_KERNEL, Job, Stencil, Strides, stencil_of
from ..problem import Problem
from .compile import CpuJob
from .kernels import PLAN
from .pack import CIRCULAR, REFLECT, REPLICATE, ZERO
from .rows import ENDS

_MODES = {"zero": ZERO, "replicate": REPLICATE, "circular": CIRCULAR, "reflect": REFLECT}
_PARTS = ("batch", "volume", "depth", "row", "col")

#: Depth positions computed together; with their weights they fill the registers.
TILE = 8
#: Columns computed together at most, so that a tile's packed rows stay in the first-level cache.
COLUMNS = 1024
#: Numbers that a lane of the weight gradient adds up before it carries on in float64.
TERMS = 4096
#: Bytes of the narrowest vector registers.
LEAST_VECTOR = 16
#: Numbers behind a plan that threads count with: items claimed, threads, items finished.
COUNTERS = 3
#: Bytes of the weight gradient's sums that a piece of work adds to in turn.
SUMS_BYTES = 1 << 15
#: Rows of a piece of work, where they are read in place.
ROWS = 32
#: Rows that a piece of work is not cut below: the rows shared with its neighbours are packed twice.
MIN_ROWS = 8


@dataclass(frozen=True, slots=True)
class Number:
    """An element type as the kernels see it: its name in `simd.STORAGE`, bytes in memory and in use."""

    storage: str
    stored_bytes: int
    wide_bytes: int
    vector_bytes: int

    @property
    def lanes(self) -> int:
        return self.vector_bytes // self.wide_bytes

    def for_columns(self, columns: int) -> Number:
        """In vectors of half the width where so few columns fill no more: the rest would be computed for nothing."""
        half = self.vector_bytes // 2
        return replace(self, vector_bytes=half) if LEAST_VECTOR <= half >= columns * self.wide_bytes else self


@dataclass(frozen=True, slots=True)
class Template:
    """A plan that lacks only addresses.

    Args:
        kernel: what carries it out.
        words: the record `PLAN` and after it the counters (of claimed items, threads and finished items), as int64.
        spec: (kernel along depth, taps, tile, lanes): what the kernel is compiled for.
        scratch_size: bytes a thread packs into.
        items: pieces of work.
        sums_size, bias_sums_size: float64 sums of weights and of biases that the weight gradient's items make.
        tables: what `words` points to.
        stencil: what was planned.
    """

    kernel: CpuJob
    words: array[int]
    spec: tuple[int, int, int, int]
    scratch_size: int
    items: int
    sums_size: int
    bias_sums_size: int
    tables: Any
    stencil: Stencil


@lru_cache(maxsize=4096)
def template_of(problem: Problem, job: Job, source: Strides, target: Strides, number: Number, threads: int) -> Template:
    """The plan of a call; the same call at the next step finds it again."""
    stencil = stencil_of(problem, job, source, target)
    batch, depth, rows, cols = stencil.axes
    number = number.for_columns(cols.size_out)
    plan = np.zeros((), PLAN)
    shifts = _describe_input(plan["input"], stencil, number)
    plan["columns"] = shifts.ctypes.data
    _describe_axes(plan, stencil, number)
    in_place = _reads_in_place(stencil, number) and (job != "weight_grad" or _sums_in_place(problem, stencil, number))
    columns = cols.size_out if in_place else min(cols.size_out, COLUMNS)
    tile = ROWS if in_place else TILE
    plan["depth_blocks"], plan["cols_blocks"] = _parts(depth.size_out, tile), _parts(cols.size_out, columns)
    plan["cols_block"] = columns
    outer = batch.size * int(plan["depth_blocks"]) * int(plan["cols_blocks"])
    block = _volumes_block(job, stencil, outer, number.vector_bytes, threads)
    plan["volumes_block"], plan["volumes_blocks"] = block, stencil.volumes[1] // block
    outer *= stencil.volumes[1] // block
    plan["rows_block"] = _rows_block(job, stencil, outer, number.lanes, threads)
    plan["rows_blocks"] = _parts(rows.size_out, int(plan["rows_block"]))
    plan["items"] = outer * int(plan["rows_blocks"])
    scratch = TILE * number.vector_bytes
    scratch += stencil.volumes[0] * int(plan["ring"]) * (TILE + depth.kernel - 1) * int(plan["input"]["pitch"])
    grouped = 3 if cols.kernel % 3 == 0 else 1
    sums_size, order, taps = 0, None, None
    if job == "weight_grad":
        sums = (stencil.volumes[0], rows.kernel, cols.kernel // grouped, depth.kernel, grouped)
        blocks = prod(int(plan[f"{name}_blocks"]) for name in ("rows", "cols", "depth"))
        sums_size = int(plan["items"]) * block * prod(sums)
        order = _order(stencil, sums, blocks, block)
        plan["order"], plan["grads_count"] = order.ctypes.data, len(order)
        scratch += block * prod(sums) * number.vector_bytes + _describe_grad(plan["grad"], stencil, number)
        scratch += (block - 1) * TILE * number.vector_bytes
        if in_place:
            plan["cols_taps"] = 1  # all taps at once, as those of a kernel along depth elsewhere
    else:
        for name, step in zip(_PARTS, stencil.target, strict=True):
            plan[f"output_{name}"] = step * number.stored_bytes
    if job != "weight_grad" and not in_place:
        taps = _taps(plan, stencil, shifts, number)
        plan["taps"], plan["taps_count"] = taps.ctypes.data, taps[0].size // 2
    if in_place:
        scratch = (ENDS + cols.kernel + 1) * number.vector_bytes
    plan["scratch_size"] = scratch = _parts(scratch, 64) * 64
    words = array("q", plan.tobytes() + bytes(8 * COUNTERS))
    # Only the weight gradient groups taps: without it one program serves all widths of kernels.
    group = grouped if job == "weight_grad" else 1
    spec = (cols.kernel if in_place else depth.kernel, group, tile, number.lanes)
    rows_of_bias = int(plan["items"]) * block * tile
    kernel: CpuJob = "rows" if in_place else "forward"
    if job == "weight_grad":
        kernel = "correlate_rows" if in_place else "correlate"
    tables = shifts, taps, order
    return Template(kernel, words, spec, scratch, int(plan["items"]), sums_size, rows_of_bias, tables, stencil)


def _describe_axes(plan: Any, stencil: Stencil, number: Number) -> None:
    """Fill in sizes, steps between weights, and how many packed rows an output needs."""
    _, depth, rows, cols = stencil.axes
    out, _, along, _, across = (step * number.wide_bytes for step in stencil.weight)
    plan["weight_out"], plan["weight_depth"], plan["weight_col"] = out, along, across
    for name, axis in (("rows", rows), ("cols", cols)):
        plan[f"{name}_size"], plan[f"{name}_taps"] = axis.size_out, axis.kernel
        plan[f"{name}_dilation"] = axis.dilation
    plan["volumes_in"], plan["volumes_out"] = stencil.volumes
    plan["rows_stride"], plan["depth_size"] = rows.stride, depth.size_out
    plan["reach"] = (rows.kernel - 1) * rows.dilation + 1
    plan["ring"] = int(plan["reach"]) + rows.stride


def _sums_in_place(problem: Problem, stencil: Stencil, number: Number) -> bool:
    """Whether a piece's sums stay short enough, and those of the bias are not one a row."""
    terms = ROWS * _parts(stencil.axes[3].size, number.lanes)
    return terms <= TERMS and problem.bias_size in (0, problem.volumes[1])


def _reads_in_place(stencil: Stencil, number: Number) -> bool:
    """Whether the kernel looks along columns alone that lie side by side, so that `rows` computes."""
    _, depth, rows, cols = stencil.axes
    alone = depth.plain and rows.plain and rows.size == 1 and stencil.volumes[0] == 1
    even = cols.stride == cols.dilation == cols.spread == 1 and cols.size == cols.size_out
    beside = stencil.source[4] == stencil.target[4] == 1 and cols.pad == cols.kernel // 2 < number.lanes
    # Two vectors may overlap at a row's end, where there are two.
    whole = cols.size == number.lanes or cols.size >= 2 * number.lanes
    return alone and even and beside and whole and cols.kernel <= MAX_KERNEL


def _parts(size: int, part: int) -> int:
    return -(-size // part)


def _describe_input(view: Any, stencil: Stencil, number: Number) -> Any:
    """Fill in what is packed and how; the byte offset of every tap along the columns."""
    _, depth, rows, cols = stencil.axes
    for name, step in zip(_PARTS, stencil.source, strict=True):
        view[f"{name}_step"] = step * number.stored_bytes
    for name, axis in (("depth", depth), ("row", rows), ("col", cols)):
        view[f"{name}_size"], view[f"{name}_pad"], view[f"{name}_mode"] = axis.size, axis.pad, _MODES[axis.mode]
    view["row_up"], view["col_up"], view["col_stride"] = rows.spread, cols.spread, cols.stride
    lanes, wide = number.lanes, number.wide_bytes
    shifts = np.arange(cols.kernel) * cols.dilation
    full = _parts(min(cols.size_out, COLUMNS), lanes) * lanes
    phase = full + _parts(int(shifts[-1]) + 1, cols.stride)
    # Elements, rather than the padding before them, begin on a vector's boundary.
    lead = -cols.pad % lanes
    view["phase"], view["lead"] = phase * wide, lead * wide
    view["pitch"] = _parts(lead + cols.stride * phase, lanes) * lanes * wide
    return ((shifts % cols.stride * phase + shifts // cols.stride) * wide).astype(np.int64)


def _taps(plan: Any, stencil: Stencil, shifts: Any, number: Number) -> Any:
    """(slot, P, K_H, K_W, 2): bytes to a tap's packed row and to its weight, where an output's rows begin in a slot."""
    _, depth, rows, _ = stencil.axes
    ring, slot_bytes = int(plan["ring"]), (TILE + depth.kernel - 1) * int(plan["input"]["pitch"])
    first, volume, row = np.ogrid[:ring, : stencil.volumes[0], : rows.kernel]
    slots = volume * ring + (first + row * rows.dilation) % ring
    _, volume_step, _, row_step, col_step = stencil.weight
    weights = (volume * volume_step + row * row_step)[..., None] + np.arange(len(shifts)) * col_step
    tables = np.broadcast_arrays(slots[..., None] * slot_bytes + shifts, weights * number.wide_bytes)
    return np.ascontiguousarray(np.stack(tables, -1), np.int64)


def _describe_grad(view: Any, stencil: Stencil, number: Number) -> int:
    """Fill in how the output's gradient is packed for the weight gradient; bytes of a packed tile."""
    _, depth, rows, cols = stencil.axes
    for name, step in zip(_PARTS, stencil.target, strict=True):
        view[f"{name}_step"] = step * number.stored_bytes
    view["depth_size"], view["row_size"], view["col_size"] = depth.size_out, rows.size_out, cols.size_out
    view["row_up"] = view["col_up"] = view["col_stride"] = 1
    view["pitch"] = _parts(min(cols.size_out, COLUMNS), number.lanes) * number.vector_bytes
    return TILE * int(view["pitch"])


def _volumes_block(job: Job, stencil: Stencil, outer: int, vector_bytes: int, threads: int) -> int:
    """Output volumes of a piece of work: they share what is packed. A divisor of Q.

    The weight gradient's sums of them must stay in the first-level cache; and small work is left in as many pieces
    as there are threads.
    """
    volumes_in, volumes_out = stencil.volumes
    _, depth, rows, cols = stencil.axes
    if job == "weight_grad":
        sums = volumes_in * depth.kernel * rows.kernel * cols.kernel * vector_bytes
        most = max(1, SUMS_BYTES // sums)
    else:
        pieces = outer * _parts(rows.size_out, MIN_ROWS)
        most = max(1, volumes_out * pieces // max(1, threads))
    return max(n for n in range(1, volumes_out + 1) if volumes_out % n == 0 and n <= most)


def _order(stencil: Stencil, sums: tuple[int, ...], blocks: int, block: int) -> Any:
    """Byte offsets of the first item's sum of each weight, in the order that weights have in memory.

    An item goes through (volumes of the block, P, rows, groups of columns, depth, columns of a group).
    """
    volumes_in, rows, groups, depth, grouped = sums
    volumes = np.arange(stencil.volumes[1], dtype=np.int64)[:, None]
    first = (volumes // block * blocks * block + volumes % block) * prod(sums) + np.arange(prod(sums))
    index = 8 * first.reshape(-1, *sums).transpose(0, 1, 4, 2, 3, 5).reshape(
        -1, volumes_in, depth, rows, groups * grouped
    )
    parts = stencil.order[1:]
    back = (2 + parts.index(axis) if axis in parts else 2 for axis in (1, 2, 3))
    return np.ascontiguousarray(index.transpose(0, 1, *back)).reshape(-1)


def _rows_block(job: Job, stencil: Stencil, outer: int, lanes: int, threads: int) -> int:
    """Rows of a piece of work.

    The weight gradient's sums depend on how the work is cut, so the threads have no say in it there.
    """
    rows, cols = stencil.axes[2].size_out, stencil.axes[3].size_out
    if job == "weight_grad":
        terms_a_row = TILE * _parts(min(cols, COLUMNS), lanes)
        return min(rows, max(MIN_ROWS, TERMS // terms_a_row))
    wanted = _parts(4 * threads, outer) if threads > 1 else 1
    return min(rows, max(MIN_ROWS, _parts(rows, wanted)))
