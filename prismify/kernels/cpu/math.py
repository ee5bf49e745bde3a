"""Exponentials for Numba: SiLU and its derivative on vectors, as LLVM code.

exp(-z) = 2^n * exp(r) with n = round(-z / ln 2) and |r| <= ln(2)/2, exp(r) by its Taylor series (Muller,
"Elementary Functions", ch. 11); SiLU comes out within two units in the last place of the exact value.
"""

from __future__ import annotations

from decimal import Decimal
from math import factorial
from typing import Any, NamedTuple

from llvmlite import ir

from .vectors import F64, I32, I64, Spec, constant, multiply_add, pointer_to, splat

_LN2 = Decimal("0.693147180559945309417232121458176568")


class _Exponential(NamedTuple):
    """What a type's exponential is made of.

    Args:
        limit: |z| up to which 2^n is a normal number.
        terms: of the Taylor series.
        mantissa: bits; 1.5 * 2^mantissa added to a number rounds it to an integer in the lowest bits.
        high, low: ln 2 as a sum; n * high is exact.
    """

    limit: float
    terms: int
    mantissa: int
    high: float
    low: float


def _exponential(limit: float, terms: int, mantissa: int, bits: int) -> _Exponential:
    high = round(_LN2 * 2**bits) / 2**bits
    return _Exponential(limit, terms, mantissa, high, float(_LN2 - Decimal(high)))


_SINGLE = _exponential(87.0, 8, 23, 9)
_DOUBLE = _exponential(708.0, 14, 52, 30)


def one_plus_exp(builder: Any, z: Any) -> Any:
    """1 + exp(-z), a number or a vector; infinite where exp(-z) would not be a normal number, 1 for a NaN or more."""
    kind = z.type
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    e, integer = (_DOUBLE, I64) if number is F64 else (_SINGLE, I32)
    as_int = ir.VectorType(integer, kind.count) if isinstance(kind, ir.VectorType) else integer
    add = multiply_add(builder, kind)

    def c(value: float) -> Any:
        return constant(kind, value)

    below = builder.fcmp_ordered("<", z, c(-e.limit))
    inside = builder.select(builder.fcmp_ordered("<", z, c(e.limit)), z, c(e.limit))
    inside = builder.select(builder.fcmp_ordered(">", inside, c(-e.limit)), inside, c(-e.limit))
    magic = c(1.5 * 2.0**e.mantissa)
    shifted = add(inside, c(float(-1 / _LN2)), magic)
    n = builder.fsub(shifted, magic)
    # The series runs in -r, its signs alternate.
    minus_r = add(n, c(e.low), add(n, c(e.high), inside))
    series = c((-1) ** (e.terms - 1) / factorial(e.terms - 1))
    for k in reversed(range(e.terms - 1)):
        series = add(series, minus_r, c((-1) ** k / factorial(k)))
    exponent = builder.shl(builder.bitcast(shifted, as_int), constant(as_int, e.mantissa))
    power = builder.bitcast(builder.add(builder.bitcast(series, as_int), exponent), kind)
    return builder.select(below, c(float("inf")), builder.fadd(c(1.0), power))


def silu(builder: Any, z: Any) -> Any:
    """z / (1 + exp(-z)), as torch has it: a NaN at minus infinity."""
    return builder.fdiv(z, one_plus_exp(builder, z))


def silu_derivative(builder: Any, z: Any) -> Any:
    """s * (1 + z * (1 - s)) with the sigmoid s = 1 / (1 + exp(-z))."""
    one = constant(z.type, 1.0)
    s = builder.fdiv(one, one_plus_exp(builder, z))
    return builder.fmul(s, multiply_add(builder, z.type)(z, builder.fsub(one, s), one))


def scaled(builder: Any, value: Any, pair: Any, spec: Spec) -> Any:
    """value * scale + shift with the two numbers that lie at the address `pair`, in the type computed in."""
    scale = builder.load(pointer_to(builder, pair, spec.wide))
    shift = builder.load(pointer_to(builder, builder.add(pair, I64(spec.wide_bytes)), spec.wide))
    if isinstance(value.type, ir.VectorType):
        scale, shift = (splat(builder, x, value.type) for x in (scale, shift))
    return multiply_add(builder, value.type)(value, scale, shift)


def packed(builder: Any, value: Any, pair: Any, spec: Spec) -> Any:
    """What packing makes of an input: see `Spec`."""
    if spec.packing == "plain":
        return value
    z = scaled(builder, value, pair, spec)
    return silu(builder, z) if spec.packing == "silu" else z
