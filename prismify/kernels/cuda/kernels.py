"""The CUDA engine's kernels: the stencil over volumes (depth, rows, columns), and its weight gradient.

Both walk along depth with a block of pixels: what is loaded of one depth position serves the three outputs
that need it before the next is loaded. Sums are float32. An address is 64 bits wide from the first axis on,
and within a depth position where that is larger than 2^31 elements (`WIDE`).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

ZERO, REPLICATE, CIRCULAR, REFLECT = (tl.constexpr(i) for i in range(4))


@triton.jit
def source(position, size, MODE: tl.constexpr, UP: tl.constexpr):
    """Which element lies at a padded position, and whether there is one; `UP` zeros lie between elements."""
    if UP > 1:
        index = position // UP
        there = (position >= 0) & (position % UP == 0) & (index < size)
    elif MODE == ZERO:
        index = position
        there = (position >= 0) & (position < size)
    else:
        if MODE == REPLICATE:
            index = tl.minimum(tl.maximum(position, 0), size - 1)
        elif MODE == CIRCULAR:
            index = (position % size + size) % size
        else:
            index = tl.where(position < 0, -position, position)
            index = tl.where(index >= size, 2 * (size - 1) - index, index)
        there = (index >= 0) & (index < size)
    return index, there


@triton.jit
def depth_source(position, size, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """Which depth position lies at a padded one, and for a block of pixels whether there is one.

    Triton's interpreter takes masks that are made of blocks only.
    """
    index, _ = source(position, size, MODE, 1)
    _, there = source(position + tl.zeros([BLOCK], tl.int32), size, MODE, 1)
    return index.to(tl.int64), there


@triton.jit
def window(
    plane, i, j, valid, a: tl.constexpr, c: tl.constexpr, rows, cols, row_step, col_step,
    ROW_STRIDE: tl.constexpr, COL_STRIDE: tl.constexpr, ROW_DILATION: tl.constexpr, COL_DILATION: tl.constexpr,
    ROW_PAD: tl.constexpr, COL_PAD: tl.constexpr, ROW_MODE: tl.constexpr, COL_MODE: tl.constexpr,
    ROW_UP: tl.constexpr, COL_UP: tl.constexpr,
):  # fmt: skip
    """The inputs that tap (a, c) of one depth position reads for output pixels (i, j), as float32."""
    row, row_there = source(i * ROW_STRIDE + a * ROW_DILATION - ROW_PAD, rows, ROW_MODE, ROW_UP)
    col, col_there = source(j * COL_STRIDE + c * COL_DILATION - COL_PAD, cols, COL_MODE, COL_UP)
    there = valid & row_there & col_there
    return tl.load(plane + row * row_step + col * col_step, mask=there, other=0.0).to(tl.float32)


@triton.jit
def load_weights(w, w_depth, w_row, w_col, DEPTH_TAPS: tl.constexpr, ROW_TAPS: tl.constexpr, COL_TAPS: tl.constexpr):
    """A pair of volumes' weights as a tuple of numbers: depth, then rows, then columns."""
    numbers = ()
    for h in tl.static_range(DEPTH_TAPS):
        for a in tl.static_range(ROW_TAPS):
            for c in tl.static_range(COL_TAPS):
                numbers = numbers + (tl.load(w + h * w_depth + a * w_row + c * w_col),)  # type: ignore[assignment]  # noqa: RUF005
    return numbers


@triton.jit
def stencil_kernel(
    x, w, bias, y,
    depth_in, depth_out, depth_blocks, rows_in, rows_out, cols_in, cols_out, pixel_blocks, volumes_out,
    x_batch, x_volume, x_depth, x_row, x_col,
    y_batch, y_volume, y_depth, y_row, y_col,
    w_out, w_in, w_depth, w_row, w_col, bias_out, bias_depth,
    VOLUMES: tl.constexpr, DEPTH_TAPS: tl.constexpr, ROW_TAPS: tl.constexpr, COL_TAPS: tl.constexpr,
    DEPTH_PAD: tl.constexpr, DEPTH_MODE: tl.constexpr,
    ROW_STRIDE: tl.constexpr, COL_STRIDE: tl.constexpr, ROW_DILATION: tl.constexpr, COL_DILATION: tl.constexpr,
    ROW_PAD: tl.constexpr, COL_PAD: tl.constexpr, ROW_MODE: tl.constexpr, COL_MODE: tl.constexpr,
    ROW_UP: tl.constexpr, COL_UP: tl.constexpr, WIDE: tl.constexpr,
    DEPTH_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels at `DEPTH_BLOCK` depth positions of one output volume.

    With three taps along depth, `older` and `newer` hold what the next two outputs have so far.
    """
    program = tl.program_id(0).to(tl.int64)
    pixel = (program % pixel_blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    program = program // pixel_blocks
    d0 = (program % depth_blocks).to(tl.int32) * DEPTH_BLOCK
    program = program // depth_blocks
    q, b = program % volumes_out, program // volumes_out
    valid = pixel < rows_out * cols_out
    i, j = pixel // cols_out, pixel % cols_out
    target = y + b * y_batch + q * y_volume
    if WIDE:
        i, j = i.to(tl.int64), j.to(tl.int64)
    out_pixel = i * y_row + j * y_col
    weights = w + q * w_out
    # One input volume's weights stay in registers; those of several are read again at every depth.
    kept = load_weights(weights, w_depth, w_row, w_col, DEPTH_TAPS, ROW_TAPS, COL_TAPS)
    older = tl.zeros([BLOCK], tl.float32)
    newer = tl.zeros([BLOCK], tl.float32)
    if DEPTH_TAPS == 3:
        for e in range(DEPTH_BLOCK + 2):
            index, there = depth_source(d0 + e - DEPTH_PAD, depth_in, DEPTH_MODE, BLOCK)
            first = tl.zeros([BLOCK], tl.float32)
            second = tl.zeros([BLOCK], tl.float32)
            third = tl.zeros([BLOCK], tl.float32)
            for p in range(VOLUMES):
                plane = x + b * x_batch + p * x_volume + index * x_depth
                if VOLUMES == 1:
                    numbers = kept
                else:
                    numbers = load_weights(weights + p * w_in, w_depth, w_row, w_col, 3, ROW_TAPS, COL_TAPS)
                for a in tl.static_range(ROW_TAPS):
                    for c in tl.static_range(COL_TAPS):
                        value = window(
                            plane, i, j, valid & there, a, c, rows_in, cols_in, x_row, x_col,
                            ROW_STRIDE, COL_STRIDE, ROW_DILATION, COL_DILATION,
                            ROW_PAD, COL_PAD, ROW_MODE, COL_MODE, ROW_UP, COL_UP,
                        )  # fmt: skip
                        first += value * numbers[a * COL_TAPS + c]
                        second += value * numbers[(ROW_TAPS + a) * COL_TAPS + c]
                        third += value * numbers[(2 * ROW_TAPS + a) * COL_TAPS + c]
            d = d0 + e - 2
            depths = d + tl.zeros([BLOCK], tl.int32)
            # A block may begin before the first output and end behind the last; neither has a bias.
            bias_at = tl.minimum(tl.maximum(d, 0), depth_out - 1)
            result = older + third + tl.load(bias + q * bias_out + bias_at * bias_depth)
            done = valid & (depths >= d0) & (depths < depth_out)
            tl.store(target + d.to(tl.int64) * y_depth + out_pixel, result.to(y.dtype.element_ty), mask=done)
            older = newer + second
            newer = first
    else:
        for e in range(DEPTH_BLOCK):
            d = d0 + e
            result = older + tl.load(bias + q * bias_out + tl.minimum(d, depth_out - 1) * bias_depth)
            for p in range(VOLUMES):
                if VOLUMES == 1:
                    numbers = kept
                else:
                    numbers = load_weights(weights + p * w_in, w_depth, w_row, w_col, DEPTH_TAPS, ROW_TAPS, COL_TAPS)
                for h in tl.static_range(DEPTH_TAPS):
                    index, there = depth_source(d + h - DEPTH_PAD, depth_in, DEPTH_MODE, BLOCK)
                    plane = x + b * x_batch + p * x_volume + index * x_depth
                    for a in tl.static_range(ROW_TAPS):
                        for c in tl.static_range(COL_TAPS):
                            value = window(
                                plane, i, j, valid & there, a, c, rows_in, cols_in, x_row, x_col,
                                ROW_STRIDE, COL_STRIDE, ROW_DILATION, COL_DILATION,
                                ROW_PAD, COL_PAD, ROW_MODE, COL_MODE, ROW_UP, COL_UP,
                            )  # fmt: skip
                            result += value * numbers[(h * ROW_TAPS + a) * COL_TAPS + c]
            done = valid & (d + tl.zeros([BLOCK], tl.int32) < depth_out)
            tl.store(target + d.to(tl.int64) * y_depth + out_pixel, result.to(y.dtype.element_ty), mask=done)


@triton.jit
def correlate_kernel(
    x, g, sums, bias_sums,
    units, slices, depth_in, depth_out, depth_blocks, rows_in, rows_out, cols_in, cols_out, pixel_blocks,
    x_batch, x_volume, x_depth, x_row, x_col,
    g_batch, g_volume, g_depth, g_row, g_col,
    VOLUMES: tl.constexpr, DEPTH_TAPS: tl.constexpr, ROW_TAPS: tl.constexpr, COL_TAPS: tl.constexpr,
    DEPTH_PAD: tl.constexpr, DEPTH_MODE: tl.constexpr,
    ROW_STRIDE: tl.constexpr, COL_STRIDE: tl.constexpr, ROW_DILATION: tl.constexpr, COL_DILATION: tl.constexpr,
    ROW_PAD: tl.constexpr, COL_PAD: tl.constexpr, ROW_MODE: tl.constexpr, COL_MODE: tl.constexpr,
    WIDE: tl.constexpr, TAPS: tl.constexpr, SHARED: tl.constexpr,
    DEPTH_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One slice's share of the gradient of the weights between one input and one output volume.

    A program adds up the units (batch element, depth block, pixel block) number slice, slice + slices, ...
    in that order; `sums` is (output volume, input volume, depth tap, slice, TAPS), TAPS the pixel taps
    rounded up to a power of two. Where all three depth taps are `SHARED`, one program computes them from
    the same loads; otherwise each depth tap has programs of its own.
    """
    program = tl.program_id(0).to(tl.int64)
    part = (program % slices).to(tl.int32)
    volumes = program // slices
    h0 = 0
    if not SHARED:
        h0 = (volumes % DEPTH_TAPS).to(tl.int32)
        volumes = volumes // DEPTH_TAPS
    p, q = volumes % VOLUMES, volumes // VOLUMES
    tap = tl.arange(0, TAPS)
    a, c = tap // COL_TAPS, tap % COL_TAPS
    sum0 = tl.zeros([TAPS, BLOCK], tl.float32)
    sum1 = tl.zeros([TAPS, BLOCK], tl.float32)
    sum2 = tl.zeros([TAPS, BLOCK], tl.float32)
    bias_sum = tl.zeros([BLOCK], tl.float32)
    for unit in range(part, units, slices):
        pixel = unit % pixel_blocks * BLOCK + tl.arange(0, BLOCK)
        rest = unit // pixel_blocks
        d0 = rest % depth_blocks * DEPTH_BLOCK
        b = (rest // depth_blocks).to(tl.int64)
        valid = pixel < rows_out * cols_out
        i, j = pixel // cols_out, pixel % cols_out
        if WIDE:
            i, j = i.to(tl.int64), j.to(tl.int64)
        row, row_there = source(i[None, :] * ROW_STRIDE + a[:, None] * ROW_DILATION - ROW_PAD, rows_in, ROW_MODE, 1)
        col, col_there = source(j[None, :] * COL_STRIDE + c[:, None] * COL_DILATION - COL_PAD, cols_in, COL_MODE, 1)
        reads = row_there & col_there & valid[None, :] & (tap < ROW_TAPS * COL_TAPS)[:, None]
        at = row * x_row + col * x_col
        g_at = g + b * g_batch + q * g_volume + i * g_row + j * g_col
        g1 = tl.zeros([BLOCK], tl.float32)
        g2 = tl.zeros([BLOCK], tl.float32)
        for e in range(DEPTH_BLOCK + (2 if SHARED else 0)):
            index, there = depth_source(d0 + e + h0 - DEPTH_PAD, depth_in, DEPTH_MODE, BLOCK)
            plane = x + b * x_batch + p * x_volume + index * x_depth
            values = tl.load(plane + at, mask=reads & there[None, :], other=0.0).to(tl.float32)
            d = d0 + e
            depths = d + tl.zeros([BLOCK], tl.int32)
            here = valid & (depths < d0 + DEPTH_BLOCK) & (depths < depth_out)
            g0 = tl.load(g_at + d.to(tl.int64) * g_depth, mask=here, other=0.0).to(tl.float32)
            sum0 += values * g0[None, :]
            bias_sum += g0
            if SHARED:
                sum1 += values * g1[None, :]
                sum2 += values * g2[None, :]
                g2 = g1
                g1 = g0
    to = sums + (program // slices * (3 if SHARED else 1) * slices + part) * TAPS + tap
    tl.store(to, tl.sum(sum0, 1))
    if SHARED:
        tl.store(to + slices * TAPS, tl.sum(sum1, 1))
        tl.store(to + 2 * slices * TAPS, tl.sum(sum2, 1))
    tl.store(bias_sums + program, tl.sum(bias_sum, 0))
