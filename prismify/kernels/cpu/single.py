"""Operations on one vector at a time, and on its neighbours to both sides: what `rows` is made of (see `simd`)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .math import packed
from .vectors import I32, Vector, multiply_add, pointer_to, splat, to_stored, to_wide, vectors_of


@intrinsic
def load_wide(context: Any, address: Any, spec: Any) -> Any:
    """One vector from memory as computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[1]
        return builder.load(pointer_to(builder, args[0], spec.vector), align=spec.wide_bytes)

    return Vector(spec.vector)(types.int64, spec), code


@intrinsic
def load_stored(context: Any, address: Any, pair: Any, spec: Any) -> Any:
    """One vector from memory as stored, packed with the numbers at `pair`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = builder.load(pointer_to(builder, args[0], spec.stored_vector), align=spec.stored_bytes)
        return packed(builder, to_wide(builder, value, spec, spec.vector), args[1], spec)

    return Vector(spec.vector)(types.int64, types.int64, spec), code


@intrinsic
def store_one(context: Any, to: Any, vector: Any, spec: Any) -> Any:
    """Write one vector, narrowed to the type in memory."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = to_stored(builder, args[1], spec, spec.stored_vector)
        builder.store(value, pointer_to(builder, args[0], spec.stored_vector), align=spec.stored_bytes)
        return context.get_dummy_value()

    return types.void(types.int64, vector, spec), code


@intrinsic
def add_one(context: Any, vector: Any, address: Any, spec: Any) -> Any:
    """The sum of a vector and one in memory as stored."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = builder.load(pointer_to(builder, args[1], spec.stored_vector), align=spec.stored_bytes)
        return builder.fadd(args[0], to_wide(builder, value, spec, spec.vector))

    return vector(vector, types.int64, spec), code


@intrinsic
def splat_one(context: Any, address: Any, spec: Any) -> Any:
    """A vector that repeats the number at `address`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[1]
        return splat(builder, builder.load(pointer_to(builder, args[0], spec.wide)), spec.vector)

    return Vector(spec.vector)(types.int64, spec), code


@intrinsic
def shifted_sum(context: Any, start: Any, before: Any, here: Any, after: Any, weights: Any, spec: Any) -> Any:
    """start + the sum over c of weights[c] * the vector `c - kernel // 2` numbers on from `here`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, before, here, after, weights, _ = args
        spec = sig.args[5]
        add = multiply_add(builder, spec.vector)
        for c, weight in enumerate(cgutils.unpack_tuple(builder, weights, spec.kernel)):
            value = _shifted(builder, before, here, after, c - spec.kernel // 2, spec)
            total = add(weight, value, total)
        return total

    return start(start, before, here, after, weights, spec), code


@intrinsic
def no_products(context: Any, spec: Any) -> Any:
    """`spec.kernel` + 1 vectors of zeros."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(sig.args[0].vector, None)
        return context.make_tuple(builder, sig.return_type, [zero] * sig.return_type.count)

    return vectors_of(spec, spec.kernel + 1)(spec), code


@intrinsic
def shifted_products(context: Any, sums: Any, before: Any, here: Any, after: Any, grads: Any, spec: Any) -> Any:
    """sums[c] += grads * the vector `c - kernel // 2` numbers on from `here`; the last of the sums += grads."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, before, here, after, grads, _ = args
        spec = sig.args[5]
        add = multiply_add(builder, spec.vector)
        *products, plain = cgutils.unpack_tuple(builder, sums, spec.kernel + 1)
        products = [
            add(grads, _shifted(builder, before, here, after, c - spec.kernel // 2, spec), one)
            for c, one in enumerate(products)
        ]
        return context.make_tuple(builder, sig.return_type, [*products, builder.fadd(plain, grads)])

    return sums(sums, before, here, after, grads, spec), code


def _shifted(builder: Any, before: Any, here: Any, after: Any, shift: int, spec: Any) -> Any:
    """The numbers `shift` on from those of `here`, of three vectors side by side."""
    if shift == 0:
        return here
    pair, first = ((before, here), spec.lanes + shift) if shift < 0 else ((here, after), shift)
    mask = ir.Constant(ir.VectorType(I32, spec.lanes), list(range(first, first + spec.lanes)))
    return builder.shuffle_vector(*pair, mask)


@intrinsic
def product(context: Any, a: Any, b: Any, spec: Any) -> Any:
    """Of two vectors."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fmul(args[0], args[1])

    return a(a, b, spec), code


@intrinsic
def one(context: Any, to: Any, spec: Any) -> Any:
    """Write a 1 in the type computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[1]
        builder.store(ir.Constant(spec.wide, 1.0), pointer_to(builder, args[0], spec.wide))
        return context.get_dummy_value()

    return types.void(types.int64, spec), code
