"""Warm starts: an operator's weights in closed form, nearest to what a trained layer makes of its own inputs.

Nearest in the mean squared error of the layer's output over the positions whose `Moments` were taken: least squares
where the output is linear in the weights (volumes, groups), reduced-rank regression for low rank (Izenman, 1975: the
whitened singular value decomposition), one factor after the other for products and sums. The arithmetic is in float64.
"""

from __future__ import annotations

from functools import singledispatch
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ShapeError
from ..prism import Prism
from ..volumetric import Volumetric
from .composed import Gained, Sum
from .factors import tucker, tucker_of_patches
from .grouped import Grouped, Separable
from .low_rank import LowRank
from .moments import Moments
from .solving import solved
from .tucker import Tucker

_ROUNDS = 6


@singledispatch
def fit(operator: nn.Module, moments: Moments) -> Tensor:
    """Give an operator the weights that come nearest to a trained layer, in place.

    Args:
        operator: in the place of the layer.
        moments: of the layer, with some positions seen; see `watched`.

    Returns:
        the map that the operator makes then, shape (features, outputs), float64: `moments.unexplained` measures it.

    Raises:
        ShapeError: there is no closed form for such an operator; it keeps its weights.
    """
    raise ShapeError(f"there is no closed form for a {type(operator).__name__}: it starts from its own weights")


@fit.register
def _(operator: LowRank, moments: Moments) -> Tensor:
    return _reduced_rank(operator, moments, operator.rank)


@fit.register
def _(operator: Tucker, moments: Moments) -> Tensor:
    if isinstance(operator.core, nn.Identity):
        return _reduced_rank(operator, moments, operator.rank)
    inside, outside = operator.core.in_channels, operator.core.out_channels
    channels, transposed = operator.in_channels, _is_transposed(operator)
    second = moments.second(centred=moments.bias is not None and not transposed)
    if transposed:
        made = moments.weight.reshape(channels, operator.out_channels, -1)
        down, core, up = tucker_of_patches(made, second, inside, outside)
        effective = torch.einsum("ci,iot,po->cpt", down, core, up).flatten(1)
    else:
        down, core, up = tucker(moments.weight.reshape(channels, -1, operator.out_channels), second, inside, outside)
        effective = torch.einsum("ci,ito,po->ctp", down, core, up).flatten(0, 1)
        core = core.permute(2, 0, 1)
    _set(operator.down.weight, down.T)
    _set(operator.core.weight, core)
    _set(operator.up.weight, up)
    _set_bias(operator.up.bias, moments, effective, transposed=transposed)
    return effective


def _reduced_rank(operator: Any, moments: Moments, rank: int) -> Tensor:
    """Reduced-rank regression for a `down` and an `up`."""
    made, transposed = moments.weight, _is_transposed(operator)
    covariance = moments.second(centred=moments.bias is not None and not transposed)
    _, vectors = torch.linalg.eigh(made.T @ covariance @ made)
    chosen = vectors[:, -rank:]
    fitted = made @ chosen
    _set(operator.down.weight, fitted.T)
    _set(operator.up.weight, chosen.T if transposed else chosen)
    effective: Tensor = fitted @ chosen.T
    _set_bias(operator.up.bias, moments, effective, transposed=transposed)
    return effective


@fit.register
def _(operator: Grouped, moments: Moments) -> Tensor:
    inner, groups = operator.inner, operator.block_count
    covariance = moments.second(centred=moments.bias is not None)
    features, outputs = moments.weight.shape
    effective = torch.zeros_like(moments.weight)
    blocks = []
    for group in range(groups):
        rows = slice(group * features // groups, (group + 1) * features // groups)
        columns = slice(group * outputs // groups, (group + 1) * outputs // groups)
        wanted = covariance[rows] @ moments.weight[:, columns]
        block = solved(covariance[rows, rows], wanted)
        effective[rows, columns] = block
        blocks.append(block if _is_transposed(operator) else block.T)
    _set(inner.weight, torch.cat(blocks))
    _set_bias(inner.bias, moments, effective, transposed=_is_transposed(operator))
    return effective


@fit.register
def _(operator: Separable, moments: Moments) -> Tensor:
    if _is_transposed(operator):
        raise ShapeError("there is no closed form for a transposed Separable: it starts from its own weights")
    channels, taps = operator.in_channels, moments.weight.shape[0] // operator.in_channels
    covariance = moments.second(centred=moments.bias is not None)
    wanted = covariance @ moments.weight  # (F, O)
    each = moments.weight.reshape(channels, taps, -1)
    left, _, _ = torch.linalg.svd(each, full_matrices=False)
    depthwise = left[:, :, 0]  # (C, taps): of each channel, the pattern that most of its outputs share
    square = covariance.reshape(channels, taps, channels, taps)
    for _round in range(_ROUNDS):
        seen = torch.einsum("at,atbs,bs->ab", depthwise, square, depthwise)
        pointwise = solved(seen, torch.einsum("at,ato->ao", depthwise, wanted.reshape(channels, taps, -1)))
        both = pointwise @ pointwise.T
        normal = (square * both[:, None, :, None]).reshape(channels * taps, channels * taps)
        aim = torch.einsum("ao,ato->at", pointwise, wanted.reshape(channels, taps, -1)).flatten()
        depthwise = solved(normal, aim[:, None]).reshape(channels, taps)
    _set(operator.depthwise.weight, depthwise)
    _set(operator.pointwise.weight, pointwise.T)
    effective: Tensor = (depthwise[:, :, None] * pointwise[:, None]).flatten(0, 1)
    _set_bias(operator.pointwise.bias, moments, effective)
    return effective


@fit.register
def _(operator: Volumetric, moments: Moments) -> Tensor:
    return _fit_volumes(operator, moments, prod(operator.kernel_size), operator.transposed)


@fit.register
def _(operator: Prism, moments: Moments) -> Tensor:
    return _fit_volumes(operator, moments, 1, transposed=False)


def _fit_volumes(operator: Any, moments: Moments, taps: int, transposed: bool) -> Tensor:
    """Least squares for a kernel that slides along the channels of every volume."""
    p, q = operator.volumes
    depth = operator.in_channels // p
    reach = _neighbours(
        depth, operator.channel_kernel_size, operator.topology, getattr(operator, "channel_dilation", 1)
    )
    inside = 1 if transposed else taps  # features of a channel
    outside = taps if transposed else 1  # outputs of a channel
    order = _output_order(operator)
    aim_map = moments.weight.reshape(-1, q * depth, outside)[:, order].reshape(-1, q, depth, outside)
    free = operator.bias is not None and operator.bias_kind == "channel"
    second = moments.second(centred=free)
    wanted = torch.einsum("fg,gqvo->fqvo", second, aim_map)
    kernel = operator.channel_kernel_size
    unknowns = p * kernel * inside
    normal = second.new_zeros(unknowns, unknowns)
    aim = second.new_zeros(unknowns, q, outside)
    for v in range(depth):
        rows = _feature_rows(reach[v], p, depth, inside)
        there = (rows >= 0).to(second.dtype)
        rows = rows.clamp(min=0)
        normal += second[rows][:, rows] * torch.outer(there, there)
        aim += wanted[rows, :, v] * there[:, None, None]
    found = solved(normal, aim.flatten(1)).reshape(p, kernel, inside, q, outside)
    effective = torch.zeros_like(aim_map)
    for v in range(depth):
        rows = _feature_rows(reach[v], p, depth, inside)
        there = rows >= 0
        effective[:, :, v].index_add_(0, rows[there], found.reshape(unknowns, q, outside)[there])
    weight = found.permute(0, 3, 1, 2, 4) if transposed else found.permute(3, 0, 1, 2, 4)
    _set(operator.weight, weight)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    result = effective.reshape(-1, q * depth, outside)[:, back].reshape(moments.weight.shape)
    _set_bias(operator.bias, moments, result, order=order, transposed=transposed)
    return result


@fit.register
def _(operator: Gained, moments: Moments) -> Tensor:
    fitted = fit(operator.inner, moments)
    if _is_transposed(operator):
        _set_bias(operator.bias, moments, fitted, transposed=True)
        return fitted
    second = moments.second(centred=operator.bias is not None)
    both = (fitted * (second @ moments.weight)).sum(0)
    own = (fitted * (second @ fitted)).sum(0)
    gain = torch.where(own > 0, both / own.clamp(min=1e-300), torch.ones_like(own))
    _set(operator.gain, gain)
    effective = fitted * gain
    _set_bias(operator.bias, moments, effective)
    return effective


@fit.register
def _(operator: Sum, moments: Moments) -> Tensor:
    effective = [torch.zeros_like(moments.weight) for _ in operator.parts]
    for _round in range(_ROUNDS):
        for number, part in enumerate(operator.parts):
            others = sum((e for i, e in enumerate(effective) if i != number), torch.zeros_like(moments.weight))
            effective[number] = fit(part, _left(moments, others))
    total = sum(effective, torch.zeros_like(moments.weight))
    _set_bias(operator.bias, moments, total, transposed=_is_transposed(operator))
    return total


def _left(moments: Moments, taken: Tensor) -> Moments:
    """The same inputs, and what is left of the layer's map where others make a part of it."""
    left = Moments(moments.weight - taken, moments.bias)
    left.count, left.total, left.products = moments.count, moments.total, moments.products
    return left


def _neighbours(depth: int, kernel: int, topology: str, dilation: int) -> Tensor:
    """(V, K): which channel of a volume each tap reads, -1 for none."""
    steps = depth // dilation
    place = torch.arange(steps)[:, None] + torch.arange(kernel)[None] - kernel // 2
    if topology == "circular":
        place = place % steps
    elif topology == "replicate":
        place = place.clamp(0, steps - 1)
    else:
        place = torch.where((place < 0) | (place >= steps), -1, place)
    apart = [torch.where(place < 0, -1, place * dilation + start) for start in range(dilation)]
    return torch.stack(apart, 1).reshape(depth, kernel)


def _feature_rows(reach: Tensor, volumes: int, depth: int, taps: int) -> Tensor:
    """Which feature each weight (P, K_C, taps) multiplies for one output channel; -1 for none."""
    channel = torch.arange(volumes)[:, None] * depth + reach[None]
    rows = channel[..., None] * taps + torch.arange(taps)
    return torch.where((reach < 0)[None, :, None], -1, rows).flatten()


def _output_order(operator: Any) -> Tensor:
    """Which of the layer's outputs is which channel of the operator's volumes, in their order."""
    channels, runs = operator.out_channels, getattr(operator, "interleave", 1)
    return torch.arange(channels).reshape(runs, operator.volumes[1], -1).transpose(0, 1).flatten()


def _is_transposed(operator: nn.Module) -> bool:
    return bool(getattr(operator, "transposed", False))


def _set(parameter: Any, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def _set_bias(
    bias: Tensor | None, moments: Moments, effective: Tensor, *, order: Tensor | None = None, transposed: bool = False
) -> None:
    """The bias that leaves the outputs' means as the layer's, one a channel, or one a volume."""
    if bias is None:
        return
    channels = moments.bias if moments.bias is not None else None
    missing = torch.zeros(effective.shape[1], dtype=effective.dtype)
    if not transposed:  # there every output sums several positions' patches: the layer's own bias is kept
        missing = moments.mean @ (moments.weight - effective)
    whole = missing if channels is None else (channels if transposed else channels + missing)
    if order is not None and bias.numel() != whole.numel():
        whole = whole[order].reshape(bias.numel(), -1).mean(1)
    _set(bias, whole)
