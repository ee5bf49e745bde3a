"""Vectors for Numba: the few machine operations the CPU kernels are made of, as LLVM vector code.

Numba's own vectoriser decides loop by loop; these intrinsics say which registers are used. Memory is
addressed in bytes (int64); a `Spec` carries everything a kernel must know when it is compiled.
`lanes` numbers make a vector, `tile` vectors (neighbours along the depth axis) make a tile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

#: storage -> (LLVM type in memory, LLVM type computed in, bytes in memory, bytes computed in)
STORAGE: dict[str, tuple[Any, Any, int, int]] = {
    "float32": (F32, F32, 4, 4),
    "float64": (F64, F64, 8, 8),
    "bfloat16": (I16, F32, 2, 4),
    "float16": (F16, F32, 2, 4),
}


class Spec(types.Type):
    """The compile-time facts of a kernel, as a Numba type whose values carry nothing.

    Args:
        storage: a key of `STORAGE`.
        kernel: taps along the depth axis.
        taps: neighbouring taps along the columns that the weight gradient handles at a time.
        tile: outputs along the depth axis that share loaded inputs.
        lanes: numbers a vector.
    """

    def __init__(self, storage: str, kernel: int, taps: int, tile: int, lanes: int) -> None:
        self.storage, self.kernel, self.taps, self.tile, self.lanes = storage, kernel, taps, tile, lanes
        self.stored, self.wide, self.stored_bytes, self.wide_bytes = STORAGE[storage]
        super().__init__(name=f"Spec({storage},{kernel},{taps},{tile},{lanes})")

    @property
    def vector(self) -> Any:
        return ir.VectorType(self.wide, self.lanes)

    @property
    def stored_vector(self) -> Any:
        return ir.VectorType(self.stored, self.lanes)


class Vector(types.Type):
    """A register of numbers being computed with."""

    def __init__(self, spec: Spec) -> None:
        self.llvm = spec.vector
        super().__init__(name=f"Vector({self.llvm})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


register_model(Spec)(models.OpaqueModel)


def _vectors(spec: Spec, count: int) -> Any:
    return types.UniTuple(Vector(spec), count)  # type: ignore[attr-defined]


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _offset(builder: Any, address: Any, step: Any, times: int) -> Any:
    return address if times == 0 else builder.add(address, builder.mul(step, I64(times)))


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _multiply_add(builder: Any, spec: Spec) -> Any:
    kind = spec.vector
    # fmuladd, not fma: without the instruction, fma becomes a library call for every number.
    name = f"llvm.fmuladd.v{spec.lanes}f{8 * spec.wide_bytes}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return lambda a, b, c: builder.call(function, [a, b, c])


def _widen(builder: Any, value: Any, spec: Spec, kind: Any) -> Any:
    """From the type in memory to the type computed in; `kind` is its scalar or vector form."""
    if spec.storage == "bfloat16":
        as_int = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32
        shift = _constant(as_int, 16)
        return builder.bitcast(builder.shl(builder.zext(value, as_int), shift), kind)
    return builder.fpext(value, kind) if spec.storage == "float16" else value


def _narrow(builder: Any, value: Any, spec: Spec, kind: Any) -> Any:
    """From the type computed in to the type in memory, rounding to nearest even."""
    if spec.storage == "float16":
        return builder.fptrunc(value, kind)
    if spec.storage != "bfloat16":
        return value
    as_int = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32
    bits = builder.bitcast(value, as_int)
    high = builder.lshr(bits, _constant(as_int, 16))
    odd = builder.and_(high, _constant(as_int, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _constant(as_int, 0x7FFF))), _constant(as_int, 16))
    # Rounding a NaN could carry into an infinity; its quiet bit is set instead.
    quiet = builder.or_(high, _constant(as_int, 0x40))
    return builder.trunc(builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded), kind)


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


@intrinsic(prefer_literal=True)
def make_spec(context: Any, storage: Any, kernel: Any, taps: Any, tile: Any, lanes: Any) -> Any:
    """The Spec of the given literals."""
    arguments = (storage, kernel, taps, tile, lanes)
    spec = Spec(*(a.literal_value for a in arguments))
    return spec(*arguments), lambda context, builder, sig, args: context.get_dummy_value()


def _fact(read: Any) -> Any:
    """An intrinsic that answers one compile-time fact of a Spec as an int64."""

    @intrinsic
    def fact(context: Any, spec: Any) -> Any:
        return types.int64(spec), lambda context, builder, sig, args: I64(read(sig.args[0]))

    return fact


tile_of = _fact(lambda spec: spec.tile)
kernel_of = _fact(lambda spec: spec.kernel)
taps_of = _fact(lambda spec: spec.taps)
wide_bytes_of = _fact(lambda spec: spec.wide_bytes)
stored_bytes_of = _fact(lambda spec: spec.stored_bytes)
vector_bytes_of = _fact(lambda spec: spec.wide_bytes * spec.lanes)
lanes_of = _fact(lambda spec: spec.lanes)


@intrinsic
def record_at(context: Any, pointer: Any) -> Any:
    """The record a pointer points to, without the array that Numba would make around it."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(sig.return_type))

    return pointer.dtype(pointer), code


@intrinsic
def claim(context: Any, counter: Any) -> Any:
    """The value of the int64 at `counter`, which is one more afterwards; safe between threads."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, args[0], I64), I64(1), "monotonic")

    return types.int64(types.int64), code


@intrinsic
def load_int(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], I64))

    return types.int64(types.int64), code


@intrinsic
def zero_vector(context: Any, to: Any, spec: Any) -> Any:
    """Write one vector of zeros in the type computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[1].vector
        builder.store(ir.Constant(kind, None), _at(builder, args[0], kind), align=sig.args[1].wide_bytes)
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
                at = _at(builder, _offset(builder, args[0], args[1], i), I8)
                builder.call(function, [at, I32(write), I32(3), I32(1)])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, spec), code

    return prefetch


prefetch_rows = _prefetch(0, lambda spec: spec.tile + spec.kernel - 1)
prefetch_tile = _prefetch(0, lambda spec: spec.tile)
prefetch_outputs = _prefetch(1, lambda spec: spec.tile)


@intrinsic
def widen_vector(context: Any, to: Any, source: Any, spec: Any) -> Any:
    """Copy one vector from memory as stored to memory as computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = builder.load(_at(builder, args[1], spec.stored_vector), align=spec.stored_bytes)
        value = _widen(builder, value, spec, spec.vector)
        builder.store(value, _at(builder, args[0], spec.vector), align=spec.wide_bytes)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code


@intrinsic
def widen_tile(context: Any, to: Any, pitch: Any, source: Any, step: Any, spec: Any) -> Any:
    """Copy one vector for every depth position of a tile from memory as stored to memory as computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, pitch, source, step, _ = args
        spec = sig.args[4]
        for _ in range(spec.tile):
            value = builder.load(_at(builder, source, spec.stored_vector), align=spec.stored_bytes)
            value = _widen(builder, value, spec, spec.vector)
            builder.store(value, _at(builder, to, spec.vector), align=spec.wide_bytes)
            to, source = builder.add(to, pitch), builder.add(source, step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, spec), code


@intrinsic
def widen_number(context: Any, to: Any, source: Any, spec: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = _widen(builder, builder.load(_at(builder, args[1], spec.stored)), spec, spec.wide)
        builder.store(value, _at(builder, args[0], spec.wide))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code


@intrinsic
def narrow_number(context: Any, to: Any, source: Any, spec: Any) -> Any:
    """Copy one number from memory as computed in to memory as stored."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = _narrow(builder, builder.load(_at(builder, args[1], spec.wide)), spec, spec.stored)
        builder.store(value, _at(builder, args[0], spec.stored))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code


@intrinsic
def splat_tile(context: Any, address: Any, pitch: Any, spec: Any) -> Any:
    """A tile whose vector t repeats the number at `address + t*pitch`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, pitch, _ = args
        spec = sig.args[2]
        vectors = []
        for t in range(spec.tile):
            value = builder.load(_at(builder, _offset(builder, address, pitch, t), spec.wide))
            vectors.append(_splat(builder, value, spec.vector))
        return context.make_tuple(builder, sig.return_type, vectors)

    return _vectors(spec, spec.tile)(types.int64, types.int64, spec), code


@intrinsic
def multiply_tile(context: Any, tile: Any, rows: Any, pitch: Any, weight: Any, weight_pitch: Any, spec: Any) -> Any:
    """tile[t] += weight[h] * rows[t + h]: each input row is loaded once for the outputs that need it."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile, rows, pitch, weight, weight_pitch, _ = args
        spec = sig.args[5]
        add = _multiply_add(builder, spec)
        vectors = cgutils.unpack_tuple(builder, tile, spec.tile)
        weights = []
        for h in range(spec.kernel):
            number = builder.load(_at(builder, _offset(builder, weight, weight_pitch, h), spec.wide))
            weights.append(_splat(builder, number, spec.vector))
        for d in range(spec.tile + spec.kernel - 1):
            row = builder.load(_at(builder, rows, spec.vector), align=spec.wide_bytes)
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
                value = _narrow(builder, vector, spec, kind) if narrow else vector
                builder.store(value, _at(builder, _offset(builder, to, pitch, t), kind), align=align)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, tile, spec), code

    return store


store_tile = _tile_store(narrow=True)
store_wide = _tile_store(narrow=False)


def _wide_load(count: Any) -> Any:
    """An intrinsic that reads `count(spec)` vectors as computed in, number i at `address + i*pitch`."""

    @intrinsic
    def load(context: Any, address: Any, pitch: Any, spec: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address, pitch, _ = args
            spec = sig.args[2]
            vectors = []
            for i in range(count(spec)):
                at = _at(builder, _offset(builder, address, pitch, i), spec.vector)
                vectors.append(builder.load(at, align=spec.wide_bytes))
            return context.make_tuple(builder, sig.return_type, vectors)

        return _vectors(spec, count(spec))(types.int64, types.int64, spec), code

    return load


load_tile = _wide_load(lambda spec: spec.tile)
load_sums = _wide_load(lambda spec: spec.kernel * spec.taps)


@intrinsic
def add_tile(context: Any, tile: Any, rows: Any, pitch: Any, spec: Any) -> Any:
    """tile[t] += rows[t]."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile, rows, pitch, _ = args
        spec = sig.args[3]
        vectors = []
        for t, vector in enumerate(cgutils.unpack_tuple(builder, tile, spec.tile)):
            at = _at(builder, _offset(builder, rows, pitch, t), spec.vector)
            vectors.append(builder.fadd(vector, builder.load(at, align=spec.wide_bytes)))
        return context.make_tuple(builder, sig.return_type, vectors)

    return tile(tile, types.int64, types.int64, spec), code


@intrinsic
def correlate_tile(
    context: Any, sums: Any, grad: Any, grad_pitch: Any, rows: Any, pitch: Any, taps: Any, spec: Any
) -> Any:
    """sums[h, c] += grad[t] * rows[t + h] at the byte offset taps[c], over all t."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, grad, grad_pitch, rows, pitch, taps, _ = args
        spec = sig.args[6]
        add = _multiply_add(builder, spec)

        def load(address: Any) -> Any:
            return builder.load(_at(builder, address, spec.vector), align=spec.wide_bytes)

        totals = cgutils.unpack_tuple(builder, sums, spec.kernel * spec.taps)
        grads = [load(_offset(builder, grad, grad_pitch, t)) for t in range(spec.tile)]
        offsets = [builder.load(_at(builder, builder.add(taps, I64(8 * c)), I64)) for c in range(spec.taps)]
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
        vector = builder.load(_at(builder, args[1], spec.vector), align=spec.wide_bytes)
        value = ir.Constant(F64, 0.0)
        for lane in range(spec.lanes):
            number = builder.extract_element(vector, I32(lane))
            value = builder.fadd(value, number if spec.wide is F64 else builder.fpext(number, F64))
        builder.store(value, _at(builder, args[0], F64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, spec), code
