"""How a call looks to the compiled kernels: which axis of a tensor plays which part.

The kernels know three axes: depth (neighbours share loads), rows, and columns (neighbours are loaded
together). Which axis of a tensor plays which part depends on how the tensor lies in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from .problem import Problem

Job = Literal["forward", "input_grad", "weight_grad"]
Strides = tuple[int, ...]
Order = tuple[int, int, int, int]

#: Longest kernel along depth that the kernels are compiled for.
MAX_KERNEL = 9


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a stencil: y[i] = sum over a of w[a] * x[(i*stride + a*dilation - pad) / spread]."""

    size: int
    size_out: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad: int = 0
    mode: str = "zero"
    spread: int = 1

    @property
    def plain(self) -> bool:
        """Whether every output depends on the input of the same position alone."""
        return self.kernel == self.stride == self.spread == 1 and self.pad == 0 and self.size == self.size_out

    @property
    def straight(self) -> bool:
        """Whether the axis can play depth: neighbouring outputs read neighbouring inputs."""
        return self.stride == self.dilation == self.spread == 1 and self.kernel <= MAX_KERNEL

    @property
    def folds(self) -> bool:
        """Whether the gradient at padded positions must be added to the elements they were copied from."""
        if self.mode == "zero":
            return False
        return self.mode != "circular" or self.stride != 1 or self.size != self.size_out

    def normal(self) -> Axis:
        """The same axis, without a padding mode that pads nothing."""
        return replace(self, mode="zero") if self.pad == 0 else self

    def adjoint(self) -> Axis:
        """The axis of the input gradient (with a flipped kernel); where it folds, of the padded input's."""
        reach = self.dilation * (self.kernel - 1)
        if self.folds:
            size, pad, mode = self.size + 2 * self.pad, reach, "zero"
        else:
            size, pad, mode = self.size, reach - self.pad, self.mode
        return Axis(self.size_out, size, self.kernel, 1, self.dilation, pad, mode, self.stride)


@dataclass(frozen=True, slots=True)
class Stencil:
    """A call in the kernels' terms. Strides are in elements, in the order batch, volume, depth, rows, columns.

    Args:
        order: which of the tensors' batch, depth, rows and columns plays each part.
        axes: batch, depth, rows and columns in their new parts.
        volumes: (input, output) volumes.
        source: strides of the tensor read through the kernel.
        target: strides of the tensor on the other side.
        weight: strides of the weight: output volume, input volume, depth, rows, columns.
        weight_start: where the weight's first tap lies; the input gradient reads it backwards.
    """

    order: Order
    axes: tuple[Axis, Axis, Axis, Axis]
    volumes: tuple[int, int]
    source: Strides
    target: Strides
    weight: Strides
    weight_start: int


def axes_of(problem: Problem) -> tuple[Axis, Axis, Axis, Axis]:
    """Batch, depth, rows and columns of a call's tensors."""
    (k_c, k_h, k_w), g = problem.kernel, problem.geometry
    depth = Axis(problem.depth, problem.depth, k_c, pad=k_c // 2, mode=g.topology)
    mode = "zero" if g.padding_mode == "zeros" else g.padding_mode
    rows, cols = (
        Axis(problem.size[i], problem.size_out[i], k, g.stride[i], g.dilation[i], g.padding[i], mode)
        for i, k in enumerate((k_h, k_w))
    )
    return Axis(problem.batch, problem.batch), depth.normal(), rows.normal(), cols.normal()


@lru_cache(maxsize=4096)
def input_grad_shape(problem: Problem) -> tuple[tuple[int, int, int, int], bool]:
    """Shape of the (padded, see `Axis.folds`) input's gradient, and whether any axis folds."""
    axes = axes_of(problem)[1:]
    depth, height, width = (axis.adjoint().size_out for axis in axes)
    return (problem.batch, problem.volumes[0] * depth, height, width), any(axis.folds for axis in axes)


def stencil_of(problem: Problem, job: Job, source: Strides, target: Strides) -> Stencil:
    """Assign axes to parts.

    Args:
        source: (B, C, H, W) strides of the tensor read through the kernel: the input, or for the input
            gradient the output's gradient.
        target: strides of the output, of the (padded) input's gradient, or for the weight gradient of
            the output's gradient.
    """
    batch, depth, rows, cols = axes_of(problem)
    volumes, taps = problem.volumes, problem.kernel[0] * problem.kernel[1] * problem.kernel[2]
    steps = (0, problem.kernel[1] * problem.kernel[2], problem.kernel[2], 1)
    outer, start = (volumes[0] * taps, taps), 0
    depths = (problem.depth, problem.depth)
    if job == "input_grad":
        depth, rows, cols = depth.adjoint(), rows.adjoint(), cols.adjoint()
        volumes, outer, start = (volumes[1], volumes[0]), (outer[1], outer[0]), taps - 1
        steps = (0, -steps[1], -steps[2], -steps[3])
        depths = (problem.depth, depth.size_out)
    axes = (batch, depth, rows, cols)
    order = _order(axes, volumes, source)
    stencil = Stencil(
        order,
        (axes[order[0]], axes[order[1]], axes[order[2]], axes[order[3]]),
        volumes,
        _in_order(source, depths[0], order),
        _in_order(target, depths[1], order),
        (*outer, steps[order[1]], steps[order[2]], steps[order[3]]),
        start,
    )
    return _merge_pixels(stencil)


def _order(axes: tuple[Axis, Axis, Axis, Axis], volumes: tuple[int, int], source: Strides) -> Order:
    _, depth, rows, _ = axes
    if depth.size == 1 and depth.plain:
        return (1, 0, 2, 3)  # tokens: positions share nothing but the loop
    if source[1] == 1 and source[3] != 1 and volumes == (1, 1) and rows.straight:
        return (0, 2, 3, 1)  # channels last: vectors along them; the stencil is the same seen from there
    return (0, 1, 2, 3)


def _in_order(strides: Strides, depth: int, order: Order) -> Strides:
    batch, channel, row, col = strides
    steps = (batch, channel, row, col)
    return (steps[order[0]], channel * depth, *(steps[i] for i in order[1:]))


def _merge_pixels(stencil: Stencil) -> Stencil:
    """Rows and columns as one axis where the kernel covers one pixel, so that vectors are long."""
    batch, depth, rows, cols = stencil.axes
    if not (rows.plain and cols.plain) or rows.size == 1:
        return stencil
    if any(s[3] != s[4] * cols.size for s in (stencil.source, stencil.target)):
        return stencil
    pixels = rows.size * cols.size
    return replace(stencil, axes=(batch, depth, Axis(1, 1), Axis(pixels, pixels)))
