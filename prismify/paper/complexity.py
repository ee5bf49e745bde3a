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
from torch import Tensor, nn

from ..bench.timing import compare, peak_bytes
from ..scanning import scan
from ..training.engine.begin import hardware
from .columns import COLUMNS, HEADS, MACS, Column, Formula
from .table import Table

#: Largest distance between a measured exponent and the derived one.
CLOSE = {"parameters": 0.1, MACS: 0.1, "training time": 0.2, "space": 0.2, "inference time": 0.2}


@dataclass(frozen=True)
class Sizes:
    """Where it is measured.

    Args:
        map_channels, token_channels: C of the row of sizes in C. Maps are larger than caches throughout, while
            attention has all pairs of N.
        map_sides, token_sides: the height and width whose square is N in the other row.
        at_map_side, at_token_side, at_channels: what the other number is meanwhile.
        batch: B.
        seconds: for each size of each operator.
    """

    map_channels: tuple[int, ...] = (128, 192, 256, 384)
    token_channels: tuple[int, ...] = (64, 128, 256, 512)
    map_sides: tuple[int, ...] = (128, 160, 192, 256)
    token_sides: tuple[int, ...] = (24, 32, 48, 64)
    at_map_side: int = 128
    at_token_side: int = 32
    at_channels: int = 128
    batch: int = 4
    seconds: float = 0.5

    def rows(self, tokens: bool) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(C, side) of the row in C, and of that in N."""
        channels, sides, side = (
            (self.token_channels, self.token_sides, self.at_token_side)
            if tokens
            else (self.map_channels, self.map_sides, self.at_map_side)
        )
        return [(c, side) for c in channels], [(self.at_channels, s) for s in sides]


def table_2(sizes: Sizes = Sizes(), tell: Callable[[str], None] = lambda text: None) -> Table:
    """Table 2 with exponents in C and N, derived and measured on this machine.

    Args:
        tell: is told which operator is measured.
    """
    rows: list[tuple[Any, ...]] = []
    reasons: dict[str, list[str]] = {}
    for column in COLUMNS:
        found: dict[str, tuple[float | None, float | None]] = {}
        if column.make is not None:
            tell(column.name)
            found = _measured(column, sizes)
        for measure, bound in CLOSE.items():
            formula = column.formulas.get(measure)
            wanted = (None, None) if formula is None else _exponents(formula, sizes.rows(column.tokens))
            ours = found.get(measure, (None, None))
            pairs = [(a, b) for a, b in zip(wanted, ours, strict=True) if a is not None and b is not None]
            close = all(abs(a - b) <= bound for a, b in pairs) if pairs else None
            if close is False and column.reason:
                reasons[column.reason] = [*reasons.get(column.reason, []), column.name]
            exponents = [e if e is None else round(e, 2) for pair in zip(wanted, ours, strict=True) for e in pair]
            rows.append((column.name, measure, *column.cell(measure), *exponents, close))
    notes = (
        f"Measured on {hardware(torch.device('cpu'))}, torch {torch.__version__}, {datetime.date.today().isoformat()}. "
        f"B = {sizes.batch}, float32; C = {', '.join(map(str, sizes.map_channels))} at N = {sizes.at_map_side}² (of "
        f"attention {', '.join(map(str, sizes.token_channels))} at {sizes.at_token_side}²); N = "
        f"{_squares_of(sizes.map_sides)} (of attention {_squares_of(sizes.token_sides)}) at C = {sizes.at_channels}. "
        f"G = P = {HEADS}. Space is the most that the tensors of a training step hold at once, weights not counted.",
        "(!) The paper's cell looks wrong: heads share the channels out among them and do not divide the CN² of the "
        "time, and written out they hold P matrices of N² and not one P-th; PrismAttn's time still has the CN² of its "
        "products, and by a fused product its memory has no N².",
        "Sparse attention is another paper's, and is not measured.",
        *(f"{' and '.join(dict.fromkeys(names))}: {reason}." for reason, names in reasons.items()),
    )
    columns = (
        "operator", "measure", "paper", "derived", "C derived", "C measured", "N derived", "N measured", "as derived",
    )  # fmt: skip
    return Table("table2", "Table 2: complexity, printed, derived and measured", columns, tuple(rows), notes)


def _squares_of(sides: Sequence[int]) -> str:
    return ", ".join(f"{side}²" for side in sides)


def _exponents(formula: Formula, rows: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> tuple[float, float]:
    """Of C and of N, over the rows of sizes."""
    in_channels, in_positions = ([formula(c, side**2) for c, side in row] for row in rows)
    return _slope([c for c, _ in rows[0]], in_channels), _slope([side**2 for _, side in rows[1]], in_positions)


def _slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = ([math.log(value) for value in row] for row in (sizes, values))
    middle, height = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def _measured(column: Column, sizes: Sizes) -> dict[str, tuple[float | None, float | None]]:
    """By measure, the exponents of C and N."""
    assert column.make is not None
    found: dict[str, list[float | None]] = {}
    for number, row in enumerate(sizes.rows(column.tokens)):
        values: dict[str, list[float]] = {"parameters": [], MACS: [], "space": []}
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
            values[MACS].append(scan(layer, (x.detach(),)).macs.before)
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
