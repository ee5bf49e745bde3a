"""How the operator is written for another runtime: forms in plain torch, of which each is fast somewhere.

Which one is taken is said around an export (`written_as`). Weights stay as they are: a runtime makes of 27 numbers what
a form computes with, once, when it loads the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..problem import Geometry, depth_of

Form = Literal["auto", "blocks", "depthwise", "dense", "conv3d"]
FORMS: tuple[Form, ...] = get_args(Form)
#: Channels that a group of `blocks` makes.
BLOCK = 8
#: Elements of an input up to which shifted depthwise convolutions are the fastest form in ONNX Runtime.
SMALL = 1 << 19

_wanted: ContextVar[Form | None] = ContextVar("prismify_form", default=None)
_count: ContextVar[Counter[str] | None] = ContextVar("prismify_forms", default=None)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How many operators are written in which form, while the context lasts."""
    count: Counter[str] = Counter()
    token = _count.set(count)
    try:
        yield count
    finally:
        _count.reset(token)


@contextmanager
def written_as(form: Form | None) -> Iterator[None]:
    """Write every operator that is exported in this context in one form; "auto" chooses for each.

    Args:
        form: "blocks", a grouped convolution over overlapping blocks of channels; "depthwise", a depthwise convolution
            for each tap along the channels, shifted and summed; "dense", one convolution with a banded weight;
            "conv3d", the paper's listing. None is as plain torch runs it best.
    """
    token = _wanted.set(form)
    try:
        yield
    finally:
        _wanted.reset(token)


def wanted_form() -> Form | None:
    """The form that the export around this call asks for; None outside of one."""
    return _wanted.get()


# A compiler asks once and keeps the answer: see `engines.opaque`.
wanted_form._dynamo_marked_constant = True  # type: ignore[attr-defined]


def deep_prism(u: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, form: Form) -> Tensor:
    """The operator, as `prismify.kernels.deep_prism`, in a form.

    Args:
        u: (B, P*V, H, W).
        weight: (Q, P, K_C, K_H, K_W).
        bias: (Q,), (Q*V,) or None.
    """
    q, p, k_c = weight.shape[:3]
    depth = int(depth_of(u.shape[1], p, k_c, geometry.topology))  # where sizes are open, channels never are
    if form == "auto":
        form = _chosen(u, weight, depth, geometry)
    if (count := _count.get()) is not None:
        count[form] += 1
    if form == "conv3d":
        return reference.deep_prism(u, weight, bias, **asdict(geometry))
    if bias is not None and bias.shape[0] != q * depth:
        bias = bias.repeat_interleave(depth)
    x = _padded(u, geometry)
    if form == "depthwise":
        y = _depthwise(x, weight, depth, geometry)
        return y if bias is None else y + bias[:, None, None]
    return _blocks(x, weight, bias, depth, geometry, depth if form == "dense" else _block(depth, k_c))


def _chosen(u: Tensor, weight: Tensor, depth: int, geometry: Geometry) -> Form:
    q, p, k_c, *kernel = weight.shape
    if depth <= 2 * BLOCK or k_c == 1:
        return "dense"
    plain = geometry == Geometry(padding=geometry.padding, topology=geometry.topology)
    fixed = all(isinstance(n, int) for n in u.shape)
    if plain and fixed and p * q == 1 and kernel == [3, 3] and u.numel() <= SMALL:
        return "depthwise"
    return "blocks"


def _block(depth: int, k_c: int) -> int:
    """How many channels a group makes: few, and such that they divide the depth where any number near does."""
    near = [n for n in range(BLOCK, 2 * BLOCK + 1) if depth % n == 0] or [n for n in (6, 7, 5) if depth % n == 0]
    return max(k_c, near[0] if near else BLOCK)


def _padded(u: Tensor, geometry: Geometry) -> Tensor:
    """Pad in space, except with zeros, which convolutions add themselves."""
    top, left = geometry.padding
    if geometry.padding_mode == "zeros" or not (top or left):
        return u
    return F.pad(u, (left, left, top, top), mode=geometry.padding_mode)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, groups: int) -> Tensor:
    padding = geometry.padding if geometry.padding_mode == "zeros" else (0, 0)
    return F.conv2d(x, weight, bias, geometry.stride, padding, geometry.dilation, groups)


def _depthwise(x: Tensor, weight: Tensor, depth: int, geometry: Geometry) -> Tensor:
    """A depthwise convolution for every tap along the channels; each result is shifted to where it is seen from."""
    q, p, k_c = weight.shape[:3]
    made: list[Tensor] = []
    for to in range(q):
        parts = []
        for of in range(p):
            own = x if p == 1 else x.narrow(1, of * depth, depth)
            for tap in range(k_c):
                kernel = weight[to, of, tap].expand(depth, 1, *weight.shape[3:])
                parts.append(
                    _shifted(_convolved(own, kernel, None, geometry, depth), tap - k_c // 2, geometry.topology)
                )
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        made.append(total)
    return made[0] if q == 1 else torch.cat(made, 1)


def _shifted(y: Tensor, by: int, topology: str) -> Tensor:
    """Channel c of the result is channel c + `by`, and beyond the ends what the topology says."""
    depth, far = y.shape[1], abs(by)
    if not far:
        return y
    body = y.narrow(1, max(by, 0), depth - far)
    if topology == "zero":
        end = torch.zeros_like(y.narrow(1, 0, far))
    elif topology == "circular":
        end = y.narrow(1, 0, far) if by > 0 else y.narrow(1, depth - far, far)
    else:
        last = y.narrow(1, depth - 1, 1) if by > 0 else y.narrow(1, 0, 1)
        end = last.expand(-1, far, -1, -1)
    return torch.cat([body, end] if by > 0 else [end, body], 1)


def _blocks(x: Tensor, weight: Tensor, bias: Tensor | None, depth: int, geometry: Geometry, block: int) -> Tensor:
    """A grouped convolution whose groups read blocks of channels that overlap; one group is the dense convolution."""
    q, p, k_c = weight.shape[:3]
    half, groups = k_c // 2, -(-depth // block)
    rows = banded(weight, block).flatten(0, 1)  # (Q*block, P, block + K_C - 1, K_H, K_W)
    if groups == 1 and geometry.topology == "zero":  # zeros beyond the ends need not be there
        filters, read = rows.narrow(2, half, depth), x
    else:
        # In plain numbers: an export would record what is made of tensors, and follow none of it.
        reads = [range(g * block - half, (g + 1) * block + k_c - 1 - half) for g in range(groups)]
        parts = []
        for places in reads:
            seen = [geometry.topology != "zero" or 0 <= place < depth for place in places]
            mask = weight.new_tensor(seen)[:, None, None]
            parts.append(rows if all(seen) else rows * mask)
        filters = torch.cat(parts)
        source = [
            volume * depth + (place % depth if geometry.topology == "circular" else min(max(place, 0), depth - 1))
            for places in reads
            for volume in range(p)
            for place in places
        ]
        read = x.index_select(1, torch.tensor(source, device=x.device))
    whole = groups * block == depth
    joined = bias if whole and q == 1 else None
    y = _convolved(read, filters.flatten(1, 2), joined, geometry, groups)
    if q > 1:  # (groups, Q, block) -> (Q, groups, block)
        y = torch.unflatten(y, 1, (groups, q, block)).transpose(1, 2).flatten(2, 3)
        y = (y if whole else y.narrow(2, 0, depth)).flatten(1, 2)
    elif not whole:
        y = y.narrow(1, 0, depth)
    return y if bias is None or joined is not None else y + bias[:, None, None]


def banded(weight: Tensor, block: int) -> Tensor:
    """The weights along a diagonal band: row t has them from column t on.

    Args:
        weight: (Q, P, K_C, K_H, K_W).

    Returns:
        (Q, block, P, block + K_C - 1, K_H, K_W).
    """
    q, p, k_c, *kernel = weight.shape
    width = block + k_c - 1
    # Read row by row, a band repeats itself with a period of one more than its width.
    period = F.pad(weight, (0, 0, 0, 0, 0, width + 1 - k_c))
    rows = period[:, :, None].expand(q, p, block, width + 1, *kernel).flatten(2, 3).narrow(2, 0, block * width)
    banded: Tensor = torch.unflatten(rows, 2, (block, width)).transpose(1, 2)
    return banded
