"""Calls of the operator to try engines on, and their definition in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prismify.kernels import reference


@dataclass(frozen=True)
class Case:
    """Sizes, geometry and layout of a call; `geometry` holds the keyword arguments of `deep_prism`."""

    batch: int = 2
    volumes: tuple[int, int] = (1, 1)
    depth: int = 9
    size: tuple[int, int] = (7, 8)
    kernel: tuple[int, int, int] = (3, 3, 3)
    bias: str | None = "scalar"
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float64
    geometry: dict[str, Any] = field(default_factory=lambda: {"padding": (1, 1)})

    def __str__(self) -> str:
        p, q = self.volumes
        b, (h, w) = self.batch, self.size
        geometry = " ".join(f"{k}={v}" for k, v in self.geometry.items())
        kernel = "x".join(map(str, self.kernel))
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{b}x{p}*{self.depth}x{h}x{w} to {q} {kernel} {self.bias} {self.layout} {dtype} {geometry}"

    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fresh random leaves: u, weight and bias."""
        p, q = self.volumes
        shape = (self.batch, p * self.depth, *self.size)
        u = laid_out(torch.randn(shape, dtype=torch.float64).to(self.dtype), self.layout)
        weight = torch.randn((q, p, *self.kernel), dtype=torch.float64).to(self.dtype)
        bias = None
        if self.bias is not None:
            bias = torch.randn(q if self.bias == "scalar" else q * self.depth, dtype=torch.float64).to(self.dtype)
            bias.requires_grad_()
        return u.requires_grad_(), weight.requires_grad_(), bias


def laid_out(u: Tensor, layout: str) -> Tensor:
    """The same numbers in another place: see the names."""
    if layout == "channels_last":
        return u.to(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.zeros(u.shape[0] * 2, u.shape[1] + 1, u.shape[2] + 2, u.shape[3] * 2, dtype=u.dtype)
        view = wide[::2, 1:, 1:-1, ::2]
        return view.copy_(u).detach()
    if layout == "transposed":
        return u.transpose(2, 3).contiguous().transpose(2, 3)
    assert layout == "contiguous"
    return u


def definition(case: Case, u: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None) -> list[Tensor]:
    """Output and, for an output's gradient, the gradients of u, weight and bias, in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (u, weight, bias) if x is not None]
    output = reference.deep_prism(leaves[0], leaves[1], leaves[2] if bias is not None else None, **case.geometry)
    if grad is None:
        return [output.detach()]
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.double())]


TOPOLOGIES = ("zero", "replicate", "circular")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
LAYOUTS = ("contiguous", "channels_last", "strided", "transposed")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shapes() -> list[Case]:
    """Odd and tiny shapes, and one wider than a block of any engine."""
    sizes = [(1, 1, 1, 1), (2, 2, 3, 1), (1, 2, 1, 1), (2, 5, 1, 7), (1, 9, 6, 1), (3, 11, 2, 33), (1, 8, 1, 1030)]
    cases = [
        Case(b, (1, 1), d, (h, w), bias=bias, layout=layout, kernel=(min(3, 2 * d - 1), 3, 3))
        for b, d, h, w in sizes
        for bias, layout in (("scalar", "contiguous"), ("channel", "channels_last"))
    ]
    return [*cases, Case(1, (1, 1), 5, (123, 123), layout="channels_last"), Case(1, (1, 1), 5, (123, 123))]


def geometries() -> list[Case]:
    """Strides, dilations, paddings and their modes, topologies, volumes and layouts, mixed."""
    spatial = [
        {"padding": (1, 1)},
        {"padding": (1, 1), "stride": (2, 2)},
        {"padding": (2, 1), "stride": (1, 2), "dilation": (2, 1)},
        {"padding": (0, 2)},
        {"padding": (1, 3), "stride": (3, 1), "dilation": (1, 3)},
        {"padding": (3, 3)},
    ]
    volumes = [((1, 1), None), ((2, 1), "channel"), ((1, 3), "scalar")]
    cases = []
    for i, geometry in enumerate(spatial):
        for j, topology in enumerate(TOPOLOGIES):
            for k, mode in enumerate(PADDING_MODES):
                # Every pair of choices occurs, every choice of four does not.
                (p_q, bias), layout = volumes[(i + j + k) % 3], LAYOUTS[(i + 2 * j + k) % 4]
                words = {**geometry, "topology": topology, "padding_mode": mode}
                cases.append(Case(volumes=p_q, bias=bias, layout=layout, geometry=words))
    # Strides over more columns than a block of any engine.
    for mode in PADDING_MODES:
        words = {"padding": (1, 2), "stride": (1, 2), "padding_mode": mode}
        cases.append(Case(1, depth=3, size=(3, 2100), bias="channel", geometry=words))
    return cases


def kernels() -> list[Case]:
    """Kernels of other sizes, and the elementary types."""
    sizes = [(1, 1, 1), (1, 3, 3), (3, 1, 1), (5, 3, 3), (3, 5, 3), (3, 3, 2)]
    cases = [
        Case(depth=10, kernel=k, bias="channel", layout=layout, geometry={"padding": (k[1] // 2, k[2] // 2)})
        for k in sizes
        for layout in ("contiguous", "channels_last")
        # Each pair of (taps along the kernels' depth, along their columns) is compiled anew.
        if (k, layout) != ((5, 3, 3), "channels_last")
    ]
    return cases + [Case(dtype=dtype, layout=layout) for dtype in DTYPES for layout in LAYOUTS]


def widths() -> list[Case]:
    """Columns that fill half a vector, or need more than one."""
    return [Case(dtype=dtype, size=(5, width), bias="channel") for dtype in DTYPES for width in (2, 4, 21)]
