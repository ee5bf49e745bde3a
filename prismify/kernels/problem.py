"""One call of the operator as plain data: what engines read to say whether they can serve it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import torch

from ..errors import ShapeError
from .types import PADDING_MODES, TOPOLOGIES, Activation, PaddingMode, Topology

#: Element types that plain torch computes in float32, to round once.
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a layer fixes about the operator; the arguments of `deep_prism` that are not tensors."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    padding_mode: PaddingMode = "zeros"
    topology: Topology = "zero"


@dataclass(frozen=True, slots=True)
class NormAct:
    """What a fused block does before the operator.

    Args:
        groups: of channels normalised together.
        eps: added to the variance.
        activation: what follows the norm.
    """

    groups: int
    eps: float
    activation: Activation


@dataclass(frozen=True, slots=True)
class Problem:
    """Sizes and geometry of one call.

    Args:
        batch: B.
        volumes: (P, Q), input and output volumes.
        depth: V, channels a volume.
        size: (H, W) of the input.
        size_out: (H', W') of the output.
        kernel: (K_C, K_H, K_W).
        bias_size: 0, Q (one number a volume) or Q*V (one a channel).
        geometry: strides, padding, dilation, padding mode and topology.

    Attributes:
        shape_out: (B, Q*V, H', W').
        macs: multiply-adds of the forward pass; its two gradients take as many each.
    """

    batch: int
    volumes: tuple[int, int]
    depth: int
    size: tuple[int, int]
    size_out: tuple[int, int]
    kernel: tuple[int, int, int]
    bias_size: int
    geometry: Geometry
    shape_out: tuple[int, int, int, int] = field(init=False, repr=False, compare=False)
    macs: int = field(init=False, repr=False, compare=False)
    _hash: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        p, q = self.volumes
        shape = (self.batch, q * self.depth, *self.size_out)
        taps = p * self.kernel[0] * self.kernel[1] * self.kernel[2]
        object.__setattr__(self, "shape_out", shape)
        object.__setattr__(self, "macs", shape[0] * shape[1] * shape[2] * shape[3] * taps)
        object.__setattr__(self, "_hash", None)  # symbolic sizes have none

    def __hash__(self) -> int:
        # Caches ask for it several times a call, and of so many numbers it would take a microsecond each time.
        if self._hash is None:
            own = (self.batch, self.volumes, self.depth, self.size, self.size_out, self.kernel, self.bias_size)
            object.__setattr__(self, "_hash", hash((*own, self.geometry)))
        return self._hash  # type: ignore[return-value]

    def __reduce__(self) -> tuple[Any, ...]:
        # Words hash differently in another process.
        return Problem, tuple(getattr(self, one.name) for one in fields(self) if one.init)


def make_problem(u: tuple[int, ...], weight: tuple[int, ...], bias_size: int, geometry: Geometry) -> Problem:
    """Check shapes against one another and derive the sizes; works on symbolic sizes too.

    Args:
        u: (B, P*V, H, W).
        weight: (Q, P, K_C, K_H, K_W) or (K_C, K_H, K_W).
        bias_size: how many numbers the bias has, 0 for none.
        geometry: as for the call.

    Raises:
        ShapeError: the channels do not split into P volumes, the kernel does not fit, the bias has
            neither Q nor Q*V numbers, padding does not fit its mode, or nothing is left of the output.
    """
    if len(u) != 4 or len(weight) not in (3, 5):
        raise ShapeError(
            f"the operator takes (B, C, H, W) and a kernel of 3 or 5 axes, got {tuple(u)} and {tuple(weight)}"
        )
    q, p = weight[:2] if len(weight) == 5 else (1, 1)
    k_c, k_h, k_w = weight[-3:]
    depth = depth_of(u[1], p, k_c, geometry.topology)
    if bias_size not in (0, q, q * depth):
        raise ShapeError(f"a bias of {bias_size} numbers fits neither {q} volumes nor {q * depth} channels")
    _check_padding(geometry, (u[2], u[3]))
    size_out = output_size((u[2], u[3]), (k_h, k_w), geometry)
    return Problem(u[0], (p, q), depth, (u[2], u[3]), size_out, (k_c, k_h, k_w), bias_size, geometry)


#: `make_problem` for eager calls, where a layer asks for the same thing at every step.
cached_problem = lru_cache(maxsize=4096)(make_problem)
cached_geometry = lru_cache(maxsize=4096)(Geometry)


def output_size(size: tuple[int, int], kernel: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """(H', W') as for a `conv2d` with the same geometry.

    Raises:
        ShapeError: the kernel is larger than the padded input.
    """
    out = tuple(
        (n + 2 * pad - d * (k - 1) - 1) // s + 1
        for n, k, s, pad, d in zip(size, kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    )
    if out[0] < 1 or out[1] < 1:
        raise ShapeError(
            f"kernel {kernel} with dilation {geometry.dilation} is larger than the input "
            f"{tuple(size)} padded by {geometry.padding}"
        )
    return out[0], out[1]


def depth_of(channels: int, volumes: int, kernel: int, topology: str) -> int:
    """V, the channels a volume has.

    Raises:
        ShapeError: the channels do not split evenly, or the kernel is even or longer than 2*V - 1.
    """
    depth = channels // volumes
    if channels % volumes:
        raise ShapeError(f"{channels} channels do not split into {volumes} volumes of equal depth")
    if kernel % 2 == 0 or kernel > 2 * depth - 1:
        raise ShapeError(
            f"channel kernel size {kernel} must be odd and at most {2 * depth - 1} for volumes of {depth} channels"
        )
    if topology not in TOPOLOGIES:
        raise ShapeError(f"topology {topology!r} is not one of {', '.join(TOPOLOGIES)}")
    return depth


def _check_padding(geometry: Geometry, size: tuple[int, int]) -> None:
    mode = geometry.padding_mode
    if mode not in PADDING_MODES:
        raise ShapeError(f"padding_mode {mode!r} is not one of {', '.join(PADDING_MODES)}")
    if min(geometry.padding) < 0 or min(geometry.stride) < 1 or min(geometry.dilation) < 1:
        raise ShapeError(f"padding must be at least 0, stride and dilation at least 1, got {geometry}")
    if mode in ("zeros", "replicate"):
        return
    # Circular padding wraps around once at most, reflection keeps the edge itself.
    limit = (size[0], size[1]) if mode == "circular" else (size[0] - 1, size[1] - 1)
    if geometry.padding[0] > limit[0] or geometry.padding[1] > limit[1]:
        raise ShapeError(f"{mode} padding {geometry.padding} is too wide for an input of {tuple(size)}")
