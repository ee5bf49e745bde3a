"""Table 2: how parameters, time and memory grow with the channels C and the positions N; printed, derived, measured.

A formula of several terms grows like a power only where one of them leads, so its exponent is taken over the same sizes
as the measured one: the slope of a line through the logarithms.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bench.timing import compare, peak_bytes
from ..layers import DeepPrism, PrismAttn
from ..training.engine.begin import hardware
from .table import Table

_GROUPS = _HEADS = 8
#: Largest distance between a measured exponent and the derived one.
CLOSE = {"parameters": 0.1, "multiply-adds": 0.1, "training time": 0.2, "inference time": 0.2, "space": 0.2}
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
    """

    name: str
    printed: dict[str, str]
    formulas: dict[str, Formula]
    derived: dict[str, str]
    make: Callable[[int], nn.Module] | None
    tokens: bool = False


@dataclass(frozen=True)
class Sizes:
    """Where it is measured.

    Args:
        channels, sides: C, and the height and width whose square is N, of the two rows of sizes.
        at_side, at_channels: what the other number is meanwhile.
        batch: B.
        seconds: for each size of each operator.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    sides: tuple[int, ...] = (24, 32, 48, 64)
    at_side: int = 32
    at_channels: int = 128
    batch: int = 4
    seconds: float = 0.5


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
    return {"parameters": parameters, "training time": time, "space": space, "inference time": time}


def _squares(c: float, n: float) -> float:
    return c * c


def _one(c: float, n: float) -> float:
    return 1.0


COLUMNS = (
    Column(
        "Conv",
        _named("C²", "BC²N", "BCN", "C²N"),
        _all(_squares, _square, _map),
        {},
        lambda c: nn.Conv2d(c, c, 3, padding=1),
    ),
    Column(
        "Group",
        _named("C²/G", "BC²N/G", "BCN", "C²N/G"),
        _all(_squares, _square, _map),
        {},
        lambda c: nn.Conv2d(c, c, 3, padding=1, groups=_GROUPS),
    ),
    Column("Prism", _named("1", "BCN", "BCN", "CN"), _all(_one, _map, _map), {}, lambda c: DeepPrism(c)),
    Column(
        "Attention",
        _named("C²", "B(CN²+C²N)", "B(N²+CN)", "CN²+C²N"),
        _all(_squares, _pairs, partial(_matrix, 1)),
        {},
        lambda c: DenseAttention(c, written_out=True),
        tokens=True,
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
        _all(_squares, _pairs, partial(_matrix, _HEADS)),
        {"training time": "B(CN²+C²N)", "inference time": "CN²+C²N", "space": "B(PN²+CN)"},
        lambda c: DenseAttention(c, _HEADS, written_out=True),
        tokens=True,
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


def table_2(sizes: Sizes = Sizes(), tell: Callable[[str], None] = lambda text: None) -> Table:
    """Table 2 with exponents in C and N, derived and measured on this machine.

    Args:
        tell: is told which operator is measured.
    """
    rows: list[tuple[Any, ...]] = []
    for column in COLUMNS:
        found: dict[str, tuple[float | None, float | None]] = {}
        if column.make is not None:
            tell(column.name)
            found = _measured(column, sizes)
        for measure, printed in column.printed.items():
            formula = column.formulas.get(measure)
            wanted = (None, None) if formula is None else _exponents(formula, sizes)
            ours = found.get(measure, (None, None))
            pairs = [(a, b) for a, b in zip(wanted, ours, strict=True) if a is not None and b is not None]
            close = all(abs(a - b) <= CLOSE[measure] for a, b in pairs) if pairs else None
            derived = column.derived.get(measure, printed)
            marked = f"{printed} (!)" if derived != printed else printed
            exponents = [e if e is None else round(e, 2) for pair in zip(wanted, ours, strict=True) for e in pair]
            rows.append((column.name, measure, marked, derived, *exponents, close))
    notes = (
        f"Measured on {hardware(torch.device('cpu'))}, torch {torch.__version__}, {datetime.date.today().isoformat()}. "
        f"B = {sizes.batch}, float32; in C at N = {sizes.at_side}², C = "
        f"{', '.join(map(str, sizes.channels))}; in N at C = {sizes.at_channels}, N = "
        f"{', '.join(f'{side}²' for side in sizes.sides)}. G = P = {_HEADS}. Space is the most that the tensors of a "
        "training step hold at once, weights not counted.",
        "(!) The paper's cell looks wrong: heads share the channels out among them and do not divide the CN² of the "
        "time, and written out they hold P matrices of N² and not one P-th; PrismAttn's time still has the CN² of its "
        "products, and by a fused product its memory has no N².",
        "Sparse attention is another paper's, and is not measured.",
    )
    columns = (
        "operator", "measure", "paper", "derived", "C derived", "C measured", "N derived", "N measured", "as derived",
    )  # fmt: skip
    return Table("table2", "Table 2: complexity, printed, derived and measured", columns, tuple(rows), notes)


def _exponents(formula: Formula, sizes: Sizes) -> tuple[float, float]:
    """Of C and of N, over the sizes."""
    by_channels = [formula(c, sizes.at_side**2) for c in sizes.channels]
    by_positions = [formula(sizes.at_channels, side**2) for side in sizes.sides]
    return _slope(sizes.channels, by_channels), _slope([side**2 for side in sizes.sides], by_positions)


def _slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = ([math.log(value) for value in row] for row in (sizes, values))
    middle, height = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def _measured(column: Column, sizes: Sizes) -> dict[str, tuple[float | None, float | None]]:
    """By measure, the exponents of C and N."""
    assert column.make is not None
    rows = [[(c, sizes.at_side) for c in sizes.channels], [(sizes.at_channels, side) for side in sizes.sides]]
    found: dict[str, list[float | None]] = {}
    for number, row in enumerate(rows):
        values: dict[str, list[float]] = {"parameters": [], "space": []}
        calls: dict[str, dict[str, Callable[[], Any]]] = {"inference time": {}, "training time": {}}
        for c, side in row:
            torch.manual_seed(0)
            layer = column.make(c)
            shape = (sizes.batch, side * side, c) if column.tokens else (sizes.batch, c, side, side)
            x = torch.randn(shape, requires_grad=True)
            step = partial(_step, layer, x, torch.randn(shape))
            calls["inference time"][f"{c} {side}"] = partial(_infer, layer, x.detach())
            calls["training time"][f"{c} {side}"] = step
            values["parameters"].append(sum(p.numel() for p in layer.parameters() if p.dim() > 1))
            step()
            values["space"].append(peak_bytes(step, x.device))
        for measure, candidates in calls.items():
            times = compare(candidates, torch.device("cpu"), sizes.seconds)
            values[measure] = [t.median_ms for t in times.values()]
        places = [c if number == 0 else side * side for c, side in row]
        for measure, numbers in values.items():
            found.setdefault(measure, []).append(_slope(places, numbers))
    return {measure: (slopes[0], slopes[1]) for measure, slopes in found.items()}


def _infer(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        made: Tensor = layer(x)
    return made


def _step(layer: nn.Module, x: Tensor, outside: Tensor) -> None:
    """Forward and backward to the input and the weights."""
    x.grad = None
    layer.zero_grad()
    layer(x).backward(outside)
