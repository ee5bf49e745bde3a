"""How the channels of a layer split into volumes (paper notes: the general DeepPrism)."""

from __future__ import annotations

from math import gcd

from ..errors import ShapeError
from ..kernels.types import TOPOLOGIES


def volumes_of(in_channels: int, out_channels: int, depth: int | None = None) -> tuple[int, int]:
    """(P, Q): how many volumes of `depth` channels (default: the greatest common divisor) each side has.

    Raises:
        ShapeError: `depth` does not divide both widths.

    Example:
        >>> volumes_of(128, 256), volumes_of(960, 640), volumes_of(256, 256, depth=64)
        ((1, 2), (3, 2), (4, 4))
    """
    depth = gcd(in_channels, out_channels) if depth is None else depth
    if depth < 1 or in_channels % depth or out_channels % depth:
        raise ShapeError(f"{in_channels} -> {out_channels} channels do not split into volumes of {depth}")
    return in_channels // depth, out_channels // depth


def check_volumes(in_channels: int, out_channels: int, volumes: tuple[int, int]) -> int:
    """The depth V with in_channels = P*V and out_channels = Q*V.

    Raises:
        ShapeError: there is none.
    """
    p, q = volumes
    if p < 1 or q < 1 or in_channels % p or out_channels % q or in_channels // p != out_channels // q:
        raise ShapeError(
            f"{in_channels} -> {out_channels} channels are not {p} -> {q} volumes of one depth; "
            f"{volumes_of(in_channels, out_channels)} are"
        )
    return in_channels // p


def check_words(topology: str, bias: str | None) -> None:
    """Raise ShapeError for a topology or a form of bias that there is not."""
    if topology not in TOPOLOGIES:
        raise ShapeError(f"topology {topology!r} is not one of {', '.join(TOPOLOGIES)}")
    if bias not in ("scalar", "channel", None):
        raise ShapeError(f"bias {bias!r} is not one of scalar, channel, None")


def check_channel_kernel(kernel_size: int, depth: int | None = None) -> None:
    """Raise ShapeError unless the kernel is odd and, where a depth is given, at most 2*depth - 1."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ShapeError(f"channel kernel size {kernel_size} must be odd and positive")
    if depth is not None and kernel_size > 2 * depth - 1:
        raise ShapeError(
            f"channel kernel size {kernel_size} must be odd and at most {2 * depth - 1} for volumes of {depth} channels"
        )
