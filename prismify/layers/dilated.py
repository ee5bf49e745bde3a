"""Channel dilation: the stencil on every d-th channel, so that in a stack of such layers distant channels soon meet."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError


def apart(u: Tensor, volumes: int, dilation: int) -> Tensor:
    """(B, P*V, ...) to (B*d, P*V/d, ...): channels that are d apart become neighbours, in d batches."""
    runs = torch.unflatten(u, 1, (volumes, -1, dilation)).movedim(3, 1)
    return runs.flatten(2, 3).flatten(0, 1)


def together(y: Tensor, volumes: int, dilation: int) -> Tensor:
    """What `apart` took apart, in its place again: (B*d, Q*V/d, ...) to (B, Q*V, ...)."""
    runs = torch.unflatten(torch.unflatten(y, 0, (-1, dilation)), 2, (volumes, -1))
    return runs.movedim(1, 3).flatten(1, 3)


def check_channel_dilation(dilation: int, depth: int, kernel_size: int) -> None:
    """Raise ShapeError unless volumes of `depth` channels hold the kernel on every d-th of them."""
    if isinstance(dilation, bool) or dilation < 1 or depth % dilation:
        raise ShapeError(f"channel dilation {dilation!r} must be a whole number that divides volumes of {depth}")
    if kernel_size > 2 * (depth // dilation) - 1:
        raise ShapeError(
            f"channel kernel size {kernel_size} is too large for every {dilation}-th of {depth} channels: "
            f"at most {2 * (depth // dilation) - 1}"
        )
