"""The columns of Table 2: each operator's cells as printed, as derived, and as functions of C and N."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import DeepPrism, PrismAttn

#: Groups of a group convolution, and heads of an attention.
GROUPS = HEADS = 8
MACS = "multiply-adds"
#: Of (C, N), constants left out.
Formula = Callable[[float, float], float]


class DenseAttention(nn.Module):
    """Attention of tokens (B, N, C) with four dense projections.

    Args:
        written_out: keep the matrix of all pairs of positions, as a softmax written by hand does.
    """

    def __init__(self, channels: int, heads: int = 1, *, written_out: bool = False) -> None:
        super().__init__()
        self.heads, self.written_out = heads, written_out
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.to_q, self.to_k, self.to_v))
        if self.written_out:
            attended = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        made: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return made


@dataclass(frozen=True)
class Column:
    """One operator of Table 2.

    Args:
        name: as the paper has it.
        printed, derived: by measure, formulas in words; where the two agree, `derived` lacks the measure.
        formulas: by measure, what is derived as a function.
        make: the operator at C channels; None where there is none here.
        tokens: whether it takes (B, N, C) and not maps.
        reason: why its time may grow otherwise than derived.
    """

    name: str
    printed: dict[str, str]
    formulas: dict[str, Formula]
    derived: dict[str, str]
    make: Callable[[int], nn.Module] | None
    tokens: bool = False
    reason: str = ""

    def cell(self, measure: str) -> tuple[str | None, str]:
        """What the paper prints, marked where something else is derived, and that; it prints no multiply-adds."""
        printed = self.printed.get(measure)
        as_time = "inference time" if measure == MACS else measure
        derived = self.derived.get(as_time, self.printed[as_time])
        return (printed if printed in (None, derived) else f"{printed} (!)"), derived


def _square(c: float, n: float) -> float:
    return c * c * n


def _map(c: float, n: float) -> float:
    return c * n


def _pairs(c: float, n: float) -> float:
    return 2 * c * n * n + 4 * c * c * n


def _pairs_prism(c: float, n: float) -> float:
    return 2 * c * n * n + 12 * c * n


def _matrix(heads: int, c: float, n: float) -> float:
    return 2 * heads * n * n + 5 * c * n


def _named(parameters: str, training: str, space: str, inference: str) -> dict[str, str]:
    return {"parameters": parameters, "training time": training, "space": space, "inference time": inference}


def _all(parameters: Formula, time: Formula, space: Formula) -> dict[str, Formula]:
    return {
        "parameters": parameters,
        MACS: time,
        "training time": time,
        "space": space,
        "inference time": time,
    }


def _squares(c: float, n: float) -> float:
    return c * c


def _one(c: float, n: float) -> float:
    return 1.0


_SOFTMAX = (
    "the softmax, written out, reads and writes the matrix of all pairs several times, which takes no multiply-add and "
    "does not grow with C"
)
COLUMNS = (
    Column(
        "Conv",
        _named("C²", "BC²N", "BCN", "C²N"),
        _all(_squares, _square, _map),
        {},
        lambda c: nn.Conv2d(c, c, 3, padding=1),
        reason="maps that come from memory cost their CN numbers as well as their multiply-adds, a share of the time "
        "that falls as C grows",
    ),
    Column(
        "Group",
        _named("C²/G", "BC²N/G", "BCN", "C²N/G"),
        _all(_squares, _square, _map),
        {},
        lambda c: nn.Conv2d(c, c, 3, padding=1, groups=GROUPS),
        reason="a convolution of the few channels of a small group computes at a lower rate than one of many, so that "
        "its time grows less than its multiply-adds",
    ),
    Column(
        "Prism",
        _named("1", "BCN", "BCN", "CN"),
        _all(_one, _map, _map),
        {},
        lambda c: DeepPrism(c),
        reason="27 multiply-adds for each number that is read and written leave memory to decide, whose speed changes "
        "with what of a map the caches hold",
    ),
    Column(
        "Attention",
        _named("C²", "B(CN²+C²N)", "B(N²+CN)", "CN²+C²N"),
        _all(_squares, _pairs, partial(_matrix, 1)),
        {},
        lambda c: DenseAttention(c, written_out=True),
        tokens=True,
        reason=_SOFTMAX,
    ),
    Column(
        "FlashAttn",
        _named("C²", "B(CN²+C²N)", "BCN", "CN²+C²N"),
        _all(_squares, _pairs, _map),
        {},
        DenseAttention,
        tokens=True,
    ),
    Column(
        "MultiHeadAttn",
        _named("C²", "B(CN²/P+C²N)", "B(N²/P+CN)", "CN²/P+C²N"),
        _all(_squares, _pairs, partial(_matrix, HEADS)),
        {"training time": "B(CN²+C²N)", "inference time": "CN²+C²N", "space": "B(PN²+CN)"},
        lambda c: DenseAttention(c, HEADS, written_out=True),
        tokens=True,
        reason=_SOFTMAX,
    ),
    Column("SparseAttn", _named("C²", "B(CN^1.5+C²N)", "B(CN^1.5+CN)", "CN^1.5+C²N"), {}, {}, None),
    Column(
        "PrismAttn",
        _named("1", "B(N²+CN)", "B(N²+CN)", "CN²"),
        _all(_one, _pairs_prism, _map),
        {"training time": "B(CN²+CN)", "inference time": "CN²+CN", "space": "BCN"},
        lambda c: PrismAttn(c),
        tokens=True,
    ),
)
