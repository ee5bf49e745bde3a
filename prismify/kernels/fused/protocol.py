"""What engines that fuse norm, activation, operator and residual sum have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from ..problem import NormAct, Problem

#: x, weight, bias, residual, norm_weight, norm_bias.
Tensors = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Saved(NamedTuple):
    """What the gradients need of a forward pass besides its arguments: the activated tensor is not kept.

    Args:
        moments: mean and reciprocal deviation of every group, (B, G, 2), float64.
        pairs: scale and shift of every channel, (B, P*V, 2), in the type computed in.
    """

    moments: Tensor
    pairs: Tensor


@dataclass(slots=True)
class Grads:
    """Gradients by argument; None where there is no such argument, or nobody asked."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None


class FusedRun(Protocol):
    """What computes a fused block and its gradients (see `cpu.fused` for the arguments)."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        block: NormAct,
        problem: Problem,
        /,
    ) -> tuple[Tensor, Saved]: ...

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        norm_weight: Tensor | None,
        saved: Saved,
        block: NormAct,
        problem: Problem,
        wanted: tuple[bool, bool],
        /,
    ) -> Grads: ...
