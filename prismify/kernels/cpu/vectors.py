"""What the CPU kernels' machine operations are written with: element types, vectors, and bits of LLVM code.

Memory is addressed in bytes (int64); a `Spec` carries everything a kernel must know when it is compiled.
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
        packing: what happens to an input between memory and use: "plain" (nothing), "affine" (scaled and
            shifted) or "silu" (scaled, shifted and activated).
    """

    def __init__(self, storage: str, kernel: int, taps: int, tile: int, lanes: int, packing: str) -> None:
        self.storage, self.kernel, self.taps, self.tile, self.lanes = storage, kernel, taps, tile, lanes
        self.stored, self.wide, self.stored_bytes, self.wide_bytes = STORAGE[storage]
        self.packing = packing
        super().__init__(name=f"Spec({storage},{kernel},{taps},{tile},{lanes},{packing})")

    def but(self, **facts: Any) -> Spec:
        """The same with other facts."""
        mine = {name: getattr(self, name) for name in ("storage", "kernel", "taps", "tile", "lanes", "packing")}
        return Spec(**{**mine, **facts})

    @property
    def vector(self) -> Any:
        return ir.VectorType(self.wide, self.lanes)

    @property
    def stored_vector(self) -> Any:
        return ir.VectorType(self.stored, self.lanes)


class Vector(types.Type):
    """A register of numbers being computed with."""

    def __init__(self, llvm: Any) -> None:
        self.llvm = llvm
        super().__init__(name=f"Vector({self.llvm})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


register_model(Spec)(models.OpaqueModel)


def vectors_of(spec: Spec, count: int) -> Any:
    return types.UniTuple(Vector(spec.vector), count)  # type: ignore[attr-defined]


def pointer_to(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def offset(builder: Any, address: Any, step: Any, times: int) -> Any:
    return address if times == 0 else builder.add(address, builder.mul(step, I64(times)))


def splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, zeros)


def multiply_add(builder: Any, kind: Any) -> Any:
    """A function of three values a, b, c of LLVM type `kind` that answers a*b + c."""
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    name = "f64" if number is F64 else "f32"
    name = f"v{kind.count}{name}" if isinstance(kind, ir.VectorType) else name
    # fmuladd, not fma: without the instruction, fma becomes a library call for every number.
    signature = ir.FunctionType(kind, [kind] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fmuladd.{name}")
    return lambda a, b, c: builder.call(function, [a, b, c])


def to_wide(builder: Any, value: Any, spec: Spec, kind: Any) -> Any:
    """From the type in memory to the type computed in; `kind` is its scalar or vector form."""
    if spec.storage == "bfloat16":
        as_int = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32
        shift = constant(as_int, 16)
        return builder.bitcast(builder.shl(builder.zext(value, as_int), shift), kind)
    return builder.fpext(value, kind) if spec.storage == "float16" else value


def to_stored(builder: Any, value: Any, spec: Spec, kind: Any) -> Any:
    """From the type computed in to the type in memory, rounding to nearest even."""
    if spec.storage == "float16":
        return builder.fptrunc(value, kind)
    if spec.storage != "bfloat16":
        return value
    as_int = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32
    bits = builder.bitcast(value, as_int)
    high = builder.lshr(bits, constant(as_int, 16))
    odd = builder.and_(high, constant(as_int, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(as_int, 0x7FFF))), constant(as_int, 16))
    # Rounding a NaN could carry into an infinity; its quiet bit is set instead.
    quiet = builder.or_(high, constant(as_int, 0x40))
    return builder.trunc(builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded), kind)


def constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


@intrinsic(prefer_literal=True)
def make_spec(context: Any, storage: Any, kernel: Any, taps: Any, tile: Any, lanes: Any, packing: Any) -> Any:
    """The Spec of the given literals."""
    arguments = (storage, kernel, taps, tile, lanes, packing)
    spec = Spec(*(a.literal_value for a in arguments))
    return spec(*arguments), lambda context, builder, sig, args: context.get_dummy_value()


def _variant(**facts: Any) -> Any:
    """An intrinsic that answers a Spec with some facts changed."""

    @intrinsic
    def variant(context: Any, spec: Any) -> Any:
        return spec.but(**facts)(spec), lambda context, builder, sig, args: context.get_dummy_value()

    return variant


plainly = _variant(packing="plain")
singly = _variant(lanes=1)
#: What packing depends on alone: kernels that differ in the rest share its machine code.
for_packing = _variant(kernel=1, taps=1)


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
