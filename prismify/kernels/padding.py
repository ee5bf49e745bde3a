"""Padding's adjoint and layouts, shared by the engines."""

from __future__ import annotations

import torch
from torch import Tensor

from .axes import Axis, axes_of
from .problem import Problem


def empty_as(u: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty tensor of `shape`, channels last where `u` is that and not contiguous."""
    if u.is_contiguous() or not u.is_contiguous(memory_format=torch.channels_last):
        return u.new_empty(shape)
    return torch.empty(shape, dtype=u.dtype, device=u.device, memory_format=torch.channels_last)


def dense_as(grad: Tensor, like: Tensor) -> Tensor:
    """A gradient without gaps, channels last where `like` is: autograd hands over expanded ones."""
    last = not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return grad.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def laid_out_as(u: Tensor, result: Tensor) -> Tensor:
    """`result` with the strides that `empty_as` would give it: compilers count on them."""
    wanted = empty_as(u, tuple(result.shape))
    return result if result.stride() == wanted.stride() else wanted.copy_(result)


def fold(padded: Tensor, problem: Problem) -> Tensor:
    """Add gradients at padded positions to those of the elements they were copied from.

    Args:
        padded: (B, P*V', H', W'), the gradient of the padded input on the axes that fold.

    Returns:
        (B, P*V, H, W).
    """
    x = torch.unflatten(padded, 1, (problem.volumes[0], -1))
    for dim, axis in enumerate(axes_of(problem)[1:], start=2):
        if axis.folds:
            x = _fold_axis(x, dim, axis)
    return x.flatten(1, 2)


def _fold_axis(x: Tensor, dim: int, axis: Axis) -> Tensor:
    body = x.narrow(dim, axis.pad, axis.size).clone()
    for k in range(axis.pad):
        for position in (k - axis.pad, axis.size + k):
            to = body.select(dim, _source(position, axis))
            to += x.select(dim, position + axis.pad)
    return body


def _source(position: int, axis: Axis) -> int:
    """The element that padding copied to a position outside."""
    if axis.mode == "replicate":
        return 0 if position < 0 else axis.size - 1
    if axis.mode == "circular":
        return position % axis.size
    return -position if position < 0 else 2 * (axis.size - 1) - position
