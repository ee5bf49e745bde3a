"""The few machine operations the CPU kernels are made of, as LLVM vector code.

Numba's own vectoriser decides loop by loop; these intrinsics say which registers are used.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .math import packed
from .vectors import F64, I8, I32, I64, multiply_add, offset, pointer_to, splat, to_stored, to_wide, vectors_of


@intrinsic
def record_at(context: Any, pointer: Any) -> Any:
    """The record a pointer points to, without the array that Numba would make around it."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(sig.return_type))

    return pointer.dtype(pointer), code


@intrinsic
def claim(context: Any, counter: Any) -> Any:
    """The value of the int64 at `counter`, which is one more afterwards; safe between threads.

    Who sees a count sees all that was written before it.
    """

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", pointer_to(builder, args[0], I64), I64(1), "acq_rel")

    return types.int64(types.int64), code


@intrinsic
def load_int(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(pointer_to(builder, args[0], I64))

    return types.int64(types.int64), code


@intrinsic
def load_float(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(pointer_to(builder, args[0], F64))

    return types.float64(types.int64), code


@intrinsic
def store_float(context: Any, address: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], pointer_to(builder, args[0], F64))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), code


@intrinsic
def store_as_stored(context: Any, address: Any, value: Any, spec: Any) -> Any:
    """Write a float64 as a number in memory."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = args[1] if spec.wide is F64 else builder.fptrunc(args[1], spec.wide)
        builder.store(to_stored(builder, value, spec, spec.stored), pointer_to(builder, args[0], spec.stored))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64, spec), code


@intrinsic
def zero_vector(context: Any, to: Any, spec: Any) -> Any:
    """Write one vector of zeros in the type computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[1].vector
        builder.store(ir.Constant(kind, None), pointer_to(builder, args[0], kind), align=sig.args[1].wide_bytes)
        return context.get_dummy_value()

    return types.void(types.int64, spec), code


def _prefetch(write: int, count: Any) -> Any:
    """An intrinsic that asks for `count(spec)` cache lines, `step` bytes apart; any address may be asked for."""

    @intrinsic
    def prefetch(context: Any, address: Any, step: Any, spec: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            for i in range(count(sig.args[2])):
                at = pointer_to(builder, offset(builder, args[0], args[1], i), I8)
                builder.call(function, [at, I32(write), I32(3), I32(1)])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, spec), code

    return prefetch


prefetch_rows = _prefetch(0, lambda spec: spec.tile + spec.kernel - 1)
prefetch_tile = _prefetch(0, lambda spec: spec.tile)
prefetch_outputs = _prefetch(1, lambda spec: spec.tile)


@intrinsic
def widen_vector(context: Any, to: Any, source: Any, pair: Any, spec: Any) -> Any:
    """Copy one vector from memory as stored to memory as computed in, packed with the numbers at `pair`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, source, pair, _ = args
        _widen(builder, to, source, pair, sig.args[3])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3, spec), code


@intrinsic
def widen_tile(context: Any, to: Any, pitch: Any, source: Any, step: Any, pair: Any, spec: Any) -> Any:
    """`widen_vector` for every depth position of a tile; pairs follow one another."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, pitch, source, step, pair, _ = args
        spec = sig.args[5]
        for _ in range(spec.tile):
            _widen(builder, to, source, pair, spec)
            to, source = builder.add(to, pitch), builder.add(source, step)
            pair = builder.add(pair, I64(2 * spec.wide_bytes))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, spec), code


def _widen(builder: Any, to: Any, source: Any, pair: Any, spec: Any) -> None:
    value = builder.load(pointer_to(builder, source, spec.stored_vector), align=spec.stored_bytes)
    value = packed(builder, to_wide(builder, value, spec, spec.vector), pair, spec)
    builder.store(value, pointer_to(builder, to, spec.vector), align=spec.wide_bytes)


@intrinsic
def widen_number(context: Any, to: Any, source: Any, pair: Any, spec: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, source, pair, _ = args
        spec = sig.args[3]
        value = to_wide(builder, builder.load(pointer_to(builder, source, spec.stored)), spec, spec.wide)
        builder.store(packed(builder, value, pair, spec), pointer_to(builder, to, spec.wide))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3, spec), code


@intrinsic
def narrow_number(context: Any, to: Any, source: Any, spec: Any) -> Any:
    """Copy one number from memory as computed in to memory as stored."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = to_stored(builder, builder.load(pointer_to(builder, args[1], spec.wide)), spec, spec.stored)
        builder.store(value, pointer_to(builder, args[0], spec.stored))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code


def _reads(count: Any, read: Any) -> Any:
    """An intrinsic that answers `count(spec)` vectors, number i as `read` makes it at `address + i*pitch`."""

    @intrinsic
    def reads(context: Any, address: Any, pitch: Any, spec: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address, pitch, _ = args
            spec = sig.args[2]
            vectors = [read(builder, offset(builder, address, pitch, i), spec) for i in range(count(spec))]
            return context.make_tuple(builder, sig.return_type, vectors)

        return vectors_of(spec, count(spec))(types.int64, types.int64, spec), code

    return reads


def _repeated(builder: Any, address: Any, spec: Any) -> Any:
    return splat(builder, builder.load(pointer_to(builder, address, spec.wide)), spec.vector)


def _wide(builder: Any, address: Any, spec: Any) -> Any:
    return builder.load(pointer_to(builder, address, spec.vector), align=spec.wide_bytes)


splat_tile = _reads(lambda spec: spec.tile, _repeated)
splat_weights = _reads(lambda spec: spec.kernel, _repeated)
load_tile = _reads(lambda spec: spec.tile, _wide)
load_sums = _reads(lambda spec: spec.kernel * spec.taps, _wide)


@intrinsic
def multiply_tile(context: Any, tile: Any, rows: Any, pitch: Any, weight: Any, weight_pitch: Any, spec: Any) -> Any:
    """tile[t] += weight[h] * rows[t + h]: each input row is loaded once for the outputs that need it."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile, rows, pitch, weight, weight_pitch, _ = args
        spec = sig.args[5]
        add = multiply_add(builder, spec.vector)
        vectors = cgutils.unpack_tuple(builder, tile, spec.tile)
        weights = []
        for h in range(spec.kernel):
            number = builder.load(pointer_to(builder, offset(builder, weight, weight_pitch, h), spec.wide))
            weights.append(splat(builder, number, spec.vector))
        for d in range(spec.tile + spec.kernel - 1):
            row = builder.load(pointer_to(builder, rows, spec.vector), align=spec.wide_bytes)
            rows = builder.add(rows, pitch)
            for h, value in enumerate(weights):
                if 0 <= d - h < spec.tile:
                    vectors[d - h] = add(value, row, vectors[d - h])
        return context.make_tuple(builder, sig.return_type, vectors)

    return tile(tile, *[types.int64] * 4, spec), code


def _tile_store(narrow: bool) -> Any:
    """An intrinsic that writes a tile, vector t at `to + t*pitch`, narrowed to the type in memory or not."""

    @intrinsic
    def store(context: Any, to: Any, pitch: Any, tile: Any, spec: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            to, pitch, tile, _ = args
            spec = sig.args[3]
            kind, align = (spec.stored_vector, spec.stored_bytes) if narrow else (spec.vector, spec.wide_bytes)
            for t, vector in enumerate(cgutils.unpack_tuple(builder, tile, sig.args[2].count)):
                value = to_stored(builder, vector, spec, kind) if narrow else vector
                builder.store(value, pointer_to(builder, offset(builder, to, pitch, t), kind), align=align)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, tile, spec), code

    return store


store_tile = _tile_store(narrow=True)
store_wide = _tile_store(narrow=False)


@intrinsic
def add_tile(context: Any, tile: Any, rows: Any, pitch: Any, spec: Any) -> Any:
    """tile[t] += rows[t]."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile, rows, pitch, _ = args
        spec = sig.args[3]
        vectors = []
        for t, vector in enumerate(cgutils.unpack_tuple(builder, tile, spec.tile)):
            at = pointer_to(builder, offset(builder, rows, pitch, t), spec.vector)
            vectors.append(builder.fadd(vector, builder.load(at, align=spec.wide_bytes)))
        return context.make_tuple(builder, sig.return_type, vectors)

    return tile(tile, types.int64, types.int64, spec), code


@intrinsic
def add_stored(context: Any, tile: Any, rows: Any, pitch: Any, spec: Any) -> Any:
    """tile[t] += rows[t], read from memory as stored."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile, rows, pitch, _ = args
        spec = sig.args[3]
        sums = []
        for t, vector in enumerate(cgutils.unpack_tuple(builder, tile, spec.tile)):
            at = pointer_to(builder, offset(builder, rows, pitch, t), spec.stored_vector)
            value = to_wide(builder, builder.load(at, align=spec.stored_bytes), spec, spec.vector)
            sums.append(builder.fadd(vector, value))
        return context.make_tuple(builder, sig.return_type, sums)

    return tile(tile, types.int64, types.int64, spec), code


@intrinsic
def add_number(context: Any, to: Any, source: Any, spec: Any) -> Any:
    """Add a number from memory as stored to one in memory as computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = to_wide(builder, builder.load(pointer_to(builder, args[1], spec.stored)), spec, spec.wide)
        at = pointer_to(builder, args[0], spec.wide)
        builder.store(builder.fadd(builder.load(at), value), at)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code


@intrinsic
def correlate_tile(
    context: Any, sums: Any, grad: Any, grad_pitch: Any, rows: Any, pitch: Any, taps: Any, spec: Any
) -> Any:
    """sums[h, c] += grad[t] * rows[t + h] at the byte offset taps[c], over all t."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, grad, grad_pitch, rows, pitch, taps, _ = args
        spec = sig.args[6]
        add = multiply_add(builder, spec.vector)

        def load(address: Any) -> Any:
            return builder.load(pointer_to(builder, address, spec.vector), align=spec.wide_bytes)

        totals = cgutils.unpack_tuple(builder, sums, spec.kernel * spec.taps)
        grads = [load(offset(builder, grad, grad_pitch, t)) for t in range(spec.tile)]
        offsets = [builder.load(pointer_to(builder, builder.add(taps, I64(8 * c)), I64)) for c in range(spec.taps)]
        for d in range(spec.tile + spec.kernel - 1):
            for c in range(spec.taps):
                row = load(builder.add(rows, offsets[c]))
                for h in range(spec.kernel):
                    if 0 <= d - h < spec.tile:
                        i = h * spec.taps + c
                        totals[i] = add(grads[d - h], row, totals[i])
            rows = builder.add(rows, pitch)
        return context.make_tuple(builder, sig.return_type, totals)

    return sums(sums, *[types.int64] * 5, spec), code


@intrinsic
def total(context: Any, to: Any, source: Any, spec: Any) -> Any:
    """Write the sum of the vector at `source` as one float64 to `to`, added up in float64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        vector = builder.load(pointer_to(builder, args[1], spec.vector), align=spec.wide_bytes)
        value = ir.Constant(F64, 0.0)
        for lane in range(spec.lanes):
            number = builder.extract_element(vector, I32(lane))
            value = builder.fadd(value, number if spec.wide is F64 else builder.fpext(number, F64))
        builder.store(value, pointer_to(builder, args[0], F64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code
