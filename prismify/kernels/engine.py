"""What an engine is: it says what it serves and why not, and hands out what computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .fused.protocol import FusedRun
from .problem import NormAct, Problem


class Run(Protocol):
    """What computes: the operator and its two gradients (see `cpu.run` for the arguments)."""

    def forward(self, u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, /) -> Tensor: ...

    def input_grad(self, grad: Tensor, weight: Tensor, problem: Problem, /) -> Tensor: ...

    def weight_grad(
        self, grad: Tensor, u: Tensor, problem: Problem, weight_shape: tuple[int, ...], /
    ) -> tuple[Tensor, Tensor | None]: ...


def _no_fusion(problem: Problem, block: NormAct, dtype: torch.dtype) -> str:
    return "this engine computes norm, activation, operator and sum one after the other"


@dataclass(frozen=True)
class Engine:
    """A way to compute the operator.

    Args:
        name: what it is called in reports and by `use_engine`.
        devices: device types it runs on; none for all.
        summary: how it computes, in words.
        unavailable: why it cannot run on this machine, or None.
        why_not: why it does not serve a problem of an element type, or None.
        run: imports and returns what computes.
        describe: versions and settings, in words.
        fused: imports and returns what computes norm, activation, operator and residual sum in one; None where
            nothing does.
        why_not_fused: why that does not serve a problem that the engine serves, or None.
        transparent: whether autograd and compilers see through it, so that it is called directly and not as one opaque
            operator.
    """

    name: str
    devices: tuple[str, ...]
    summary: str
    unavailable: Callable[[], str | None]
    why_not: Callable[[Problem, torch.dtype], str | None]
    run: Callable[[], Run]
    describe: Callable[[], dict[str, str]]
    fused: Callable[[], FusedRun] | None = None
    why_not_fused: Callable[[Problem, NormAct, torch.dtype], str | None] = _no_fusion
    transparent: bool = False
