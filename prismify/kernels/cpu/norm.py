"""GroupNorm on the CPU: moments of groups, and the gradients through norm and activation.

One thread computes a group from beginning to end, in an order that nothing else influences; sums are in
float64. A group is read from memory once: what a second loop over it reads is in the cache still.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .math import packed, scaled, silu_derivative
from .parts import inlined, inner
from .simd import claim, load_float, store_float
from .vectors import (
    F64,
    I32,
    Spec,
    Vector,
    lanes_of,
    multiply_add,
    pointer_to,
    singly,
    splat,
    stored_bytes_of,
    to_stored,
    to_wide,
    wide_bytes_of,
)

#: What one call computes, for groups of `channels` of `pixels` contiguous numbers each. Addresses: `x`, `grad`
#: and the activated `output` (0 for none) as stored, `weight` and `bias` as computed in (0 for none), `pairs`,
#: the scale and shift of every channel, as computed in, and pairs of float64: `moments` (a group's mean and
#: reciprocal deviation) and `sums` (of a channel's gradient, and of its product with the normalised input).
NORM = np.dtype(
    [
        *(
            (name, np.int64)
            for name in "items counters groups channels pixels x grad output weight bias moments pairs sums".split()  # noqa: SIM905
        ),
        ("eps", np.float64),
    ]
)


@intrinsic
def load_wide(context: Any, address: Any, spec: Any) -> Any:
    """A number as computed in, as float64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[1]
        return _double(builder, builder.load(pointer_to(builder, args[0], spec.wide)))

    return types.float64(types.int64, spec), code


@intrinsic
def load_stored(context: Any, address: Any, spec: Any) -> Any:
    """A number as stored, as float64."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[1]
        value = builder.load(pointer_to(builder, args[0], spec.stored))
        return _double(builder, to_wide(builder, value, spec, spec.wide))

    return types.float64(types.int64, spec), code


@intrinsic
def store_number(context: Any, address: Any, value: Any, spec: Any) -> Any:
    """Write a float64 as a number as computed in."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spec = sig.args[2]
        value = args[1] if spec.wide is F64 else builder.fptrunc(args[1], spec.wide)
        builder.store(value, pointer_to(builder, args[0], spec.wide))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64, spec), code


def _double(builder: Any, value: Any) -> Any:
    kind = value.type
    if isinstance(kind, ir.VectorType):
        return value if kind.element is F64 else builder.fpext(value, ir.VectorType(F64, kind.count))
    return value if kind is F64 else builder.fpext(value, F64)


def _sums(spec: Spec) -> Any:
    """Two vectors of float64."""
    return types.UniTuple(Vector(ir.VectorType(F64, spec.lanes)), 2)  # type: ignore[attr-defined]


def _load(builder: Any, address: Any, spec: Spec) -> Any:
    at = pointer_to(builder, address, spec.stored_vector)
    return to_wide(builder, builder.load(at, align=spec.stored_bytes), spec, spec.vector)


@intrinsic
def no_sums(context: Any, spec: Any) -> Any:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(ir.VectorType(F64, sig.args[0].lanes), None)
        return context.make_tuple(builder, sig.return_type, [zero, zero])

    return _sums(spec)(spec), code


@intrinsic
def sum_lanes(context: Any, sums: Any) -> Any:
    """The two sums over the lanes, by halves."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        totals = []
        for vector in cgutils.unpack_tuple(builder, args[0], 2):
            while (half := vector.type.count // 2) > 0:
                low, high = (
                    builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, half), list(lanes)))
                    for lanes in (range(half), range(half, 2 * half))
                )
                vector = builder.fadd(low, high)
            totals.append(builder.extract_element(vector, I32(0)))
        return context.make_tuple(builder, sig.return_type, totals)

    return types.UniTuple(types.float64, 2)(sums), code  # type: ignore[attr-defined]


@intrinsic
def add_moments(context: Any, sums: Any, address: Any, origin: Any, spec: Any) -> Any:
    """Add a vector's distances from `origin`, and their squares."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, address, origin, _ = args
        first, second = cgutils.unpack_tuple(builder, sums, 2)
        value = _double(builder, _load(builder, address, sig.args[3]))
        value = builder.fsub(value, splat(builder, origin, value.type))
        second = multiply_add(builder, value.type)(value, value, second)
        return context.make_tuple(builder, sig.return_type, [builder.fadd(first, value), second])

    return sums(sums, types.int64, types.float64, spec), code


@intrinsic
def add_grads(context: Any, sums: Any, grad: Any, x: Any, pair: Any, mean: Any, spec: Any) -> Any:
    """Replace a vector of gradients by those of the activation's input; add them, and times x - mean."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, grad, x, pair, mean, _ = args
        spec = sig.args[5]
        first, second = cgutils.unpack_tuple(builder, sums, 2)
        value, x = _load(builder, grad, spec), _load(builder, x, spec)
        if spec.packing == "silu":
            value = builder.fmul(value, silu_derivative(builder, scaled(builder, x, pair, spec)))
            at = pointer_to(builder, grad, spec.stored_vector)
            builder.store(to_stored(builder, value, spec, spec.stored_vector), at, align=spec.stored_bytes)
        value, x = _double(builder, value), _double(builder, x)
        centred = builder.fsub(x, splat(builder, mean, x.type))
        second = multiply_add(builder, x.type)(value, centred, second)
        return context.make_tuple(builder, sig.return_type, [builder.fadd(first, value), second])

    return sums(sums, *[types.int64] * 3, types.float64, spec), code


@intrinsic
def activate(context: Any, to: Any, x: Any, pair: Any, spec: Any) -> Any:
    """Write what packing makes of a vector, as stored."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, x, pair, _ = args
        spec = sig.args[3]
        value = packed(builder, _load(builder, x, spec), pair, spec)
        at = pointer_to(builder, to, spec.stored_vector)
        builder.store(to_stored(builder, value, spec, spec.stored_vector), at, align=spec.stored_bytes)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3, spec), code


@intrinsic
def apply_norm_grad(context: Any, grad: Any, x: Any, factor: Any, slope: Any, level: Any, mean: Any, spec: Any) -> Any:
    """Replace a vector of gradients by gradient*factor + (x - mean)*slope + level."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        grad, x, *numbers, _ = args
        spec = sig.args[6]
        narrow = numbers if spec.wide is F64 else [builder.fptrunc(number, spec.wide) for number in numbers]
        factor, slope, level, mean = (splat(builder, number, spec.vector) for number in narrow)
        add = multiply_add(builder, spec.vector)
        value = add(builder.fsub(_load(builder, x, spec), mean), slope, level)
        value = add(_load(builder, grad, spec), factor, value)
        at = pointer_to(builder, grad, spec.stored_vector)
        builder.store(to_stored(builder, value, spec, spec.stored_vector), at, align=spec.stored_bytes)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 2, *[types.float64] * 4, spec), code


@inlined
def parameter(address: int, channel: int, default: float, spec: Any) -> float:
    """A channel's number, or what takes its place where there are none."""
    return load_wide(address + channel * wide_bytes_of(spec), spec) if address else default


@inner
def group_moments(item: int, plan: Any, spec: Any) -> None:
    """Mean and reciprocal deviation of a group, scale and shift of its channels."""
    stored, lanes, single = stored_bytes_of(spec), lanes_of(spec), singly(spec)
    count = plan.channels * plan.pixels
    x = plan.x + item * count * stored
    # Sums of distances from some element lose nothing where the mean is far from zero.
    origin = load_stored(x, spec)
    sums, rest = no_sums(spec), no_sums(single)
    whole = count - count % lanes
    for k in range(0, whole, lanes):
        sums = add_moments(sums, x + k * stored, origin, spec)
    for k in range(whole, count):
        rest = add_moments(rest, x + k * stored, origin, single)
    first, second = sum_lanes(sums)
    first_rest, second_rest = sum_lanes(rest)
    distance = (first + first_rest) / count
    variance = (second + second_rest) / count - distance * distance
    mean, scale = origin + distance, 1.0 / np.sqrt(max(variance, 0.0) + plan.eps if variance == variance else variance)
    store_float(plan.moments + 16 * item, mean)
    store_float(plan.moments + 16 * item + 8, scale)
    channel = item % plan.groups * plan.channels
    for c in range(plan.channels):
        factor = scale * parameter(plan.weight, channel + c, 1.0, spec)
        pair = plan.pairs + 2 * (item * plan.channels + c) * wide_bytes_of(spec)
        store_number(pair, factor, spec)
        store_number(pair + wide_bytes_of(spec), parameter(plan.bias, channel + c, 0.0, spec) - mean * factor, spec)


@inner
def group_activated(item: int, plan: Any, spec: Any) -> None:
    """The activated channels of a group, from their scales and shifts."""
    stored, lanes, single = stored_bytes_of(spec), lanes_of(spec), singly(spec)
    whole = plan.pixels - plan.pixels % lanes
    for place in range(item * plan.channels, (item + 1) * plan.channels):
        start = place * plan.pixels * stored
        pair = plan.pairs + 2 * place * wide_bytes_of(spec)
        for k in range(0, whole, lanes):
            activate(plan.output + start + k * stored, plan.x + start + k * stored, pair, spec)
        for k in range(whole, plan.pixels):
            activate(plan.output + start + k * stored, plan.x + start + k * stored, pair, single)


@inner
def group_grads(item: int, plan: Any, spec: Any) -> None:
    """Replace the gradients of a group's activated channels by those of the norm's input."""
    stored, lanes, single = stored_bytes_of(spec), lanes_of(spec), singly(spec)
    mean, scale = load_float(plan.moments + 16 * item), load_float(plan.moments + 16 * item + 8)
    channel = item % plan.groups * plan.channels
    start = item * plan.channels * plan.pixels * stored
    whole = plan.pixels - plan.pixels % lanes
    level, slope = 0.0, 0.0
    for c in range(plan.channels):
        grad, x = plan.grad + start + c * plan.pixels * stored, plan.x + start + c * plan.pixels * stored
        place = item * plan.channels + c
        pair = plan.pairs + 2 * place * wide_bytes_of(spec)
        sums, rest = no_sums(spec), no_sums(single)
        for k in range(0, whole, lanes):
            sums = add_grads(sums, grad + k * stored, x + k * stored, pair, mean, spec)
        for k in range(whole, plan.pixels):
            rest = add_grads(rest, grad + k * stored, x + k * stored, pair, mean, single)
        first, second = sum_lanes(sums)
        first_rest, second_rest = sum_lanes(rest)
        first, second = first + first_rest, second + second_rest
        store_float(plan.sums + 16 * place, first)
        store_float(plan.sums + 16 * place + 8, second * scale)
        factor = parameter(plan.weight, channel + c, 1.0, spec)
        level, slope = level + factor * first, slope + factor * second
    count = plan.channels * plan.pixels
    level, slope = -level * scale / count, -slope * scale * scale * scale / count
    for c in range(plan.channels):
        grad, x = plan.grad + start + c * plan.pixels * stored, plan.x + start + c * plan.pixels * stored
        factor = scale * parameter(plan.weight, channel + c, 1.0, spec)
        for k in range(0, whole, lanes):
            apply_norm_grad(grad + k * stored, x + k * stored, factor, slope, level, mean, spec)
        for k in range(whole, plan.pixels):
            apply_norm_grad(grad + k * stored, x + k * stored, factor, slope, level, mean, single)


@inner
def all_moments(plan: Any, spec: Any) -> None:
    item = claim(plan.counters)
    while item < plan.items:
        group_moments(item, plan, spec)
        if plan.output:
            group_activated(item, plan, spec)
        item = claim(plan.counters)


@inner
def all_activated(plan: Any, spec: Any) -> None:
    item = claim(plan.counters)
    while item < plan.items:
        group_activated(item, plan, spec)
        item = claim(plan.counters)


@inner
def all_grads(plan: Any, spec: Any) -> None:
    item = claim(plan.counters)
    while item < plan.items:
        group_grads(item, plan, spec)
        item = claim(plan.counters)
