"""The table of layers: grouped by block, repeats folded, readable in 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, get_args

from rich.table import Table
from rich.text import Text

from ..layers import OperatorType
from ..scanning import RULES, human, operator_text

_ENOUGH = 132  # in fewer columns reasons are shortened, and roles left out
_WIDE = ["layer", "", "kind", "widths", "role", "parameters", "becomes, or why it is kept"]
_NARROW = ["layer", "", "kind", "widths", "parameters", "becomes"]
_SHORTEST_NAME = 16
_OPERATOR, _REASON = len("DeepPrism 3×3×3,"), 36  # the least that the last column gets if it needs it
#: `RULES`, in two words.
_SHORT = {
    "by_hand": "kept by hand",
    "width_changes": "width changes",
    "linear": "linear",
    "conditioning": "conditioning",
    "attention_width": "attention width",
    "fused_attention": "fused attention",
    "unsupported": "no operator",
    "narrow": "too narrow",
    "narrow_volumes": "narrow volumes",
    "volumes": "widths don't split",
    "no_gain": "no gain",
    "width": "channels stay",
    "excluded": "excluded",
    "not_included": "not included",
    "tied": "tied to a kept one",
    "unreached": "never called",
    "dead": "dead",
    "unknown": "not captured",
    "untraced": "not traced",
}


@dataclass
class Fold:
    """Layers that differ in nothing but the numbers in their names, and in width."""

    names: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The one name, or the common pattern with `*` where the names differ."""
        parts = [name.split(".") for name in self.names]
        return ".".join(same[0] if len(set(same)) == 1 else "*" for same in zip(*parts, strict=True))

    def total(self, key: str) -> int:
        return sum(int(row[key]) for row in self.rows)

    def widths(self) -> str:
        shown = [f"{a}→{b}" for a, b in sorted({(row["in_channels"], row["out_channels"]) for row in self.rows})]
        return shown[0] if len(shown) == 1 else f"{shown[0]} … {shown[-1]}"

    def becomes(self, wide: bool) -> str:
        """What takes the layers' place, or why they are kept."""
        operators = list(dict.fromkeys(operator_text(row) for row in self.rows))
        rule = self.rows[0]["rule"]
        if self.rows[0]["operator"] is not None:
            papers = all(row["operator"]["type"] in get_args(OperatorType) for row in self.rows)
            more = ", volumes" if papers and any(list(r["operator"]["volumes"]) != [1, 1] for r in self.rows) else ", …"
            return operators[0] if len(operators) == 1 else operators[0].partition(",")[0] + more
        if not wide:
            return f"{self.rows[0]['role']} layer" if rule == "input_output" else _SHORT.get(rule, rule)
        reasons = {row["reason"] for row in self.rows}
        return reasons.pop() if len(reasons) == 1 else RULES.get(rule, "")


@dataclass(frozen=True)
class _Line:
    """One row of the table; `style` is that of its last cell, or of all of a block's heading."""

    cells: list[str]
    style: str
    heading: bool = False

    def texts(self, name_width: int) -> list[Text]:
        name = broken_at_dots(self.cells[0], name_width)
        plain = self.style if self.heading else ""
        return [Text(name, plain), *(Text(cell, plain) for cell in self.cells[1:-1]), Text(self.cells[-1], self.style)]


def layer_table(report: dict[str, Any], width: int, all_layers: bool) -> Table:
    """The layers of one model's report, for a terminal of `width` columns."""
    wide = width >= _ENOUGH
    headings = _WIDE if wide else _NARROW
    lines = _lines(report["layers"], wide, all_layers)
    gap = 2 if wide else 1
    columns = _column_widths([headings, *(line.cells for line in lines)], width - gap * len(headings), wide)
    table = Table(box=None, padding=(0, gap, 0, 0), show_edge=False)
    for heading, column in zip(headings, columns, strict=True):
        right = heading in ("", "parameters")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", width=column, no_wrap=right)
    for line in lines:
        table.add_row(*line.texts(columns[0]))
    return table


def _lines(layers: Sequence[dict[str, Any]], wide: bool, all_layers: bool) -> list[_Line]:
    lines = []
    depth = _depth(layers)
    for block, members in groupby(layers, key=lambda row: _block(row["name"], depth)):
        rows = list(members)
        if block:
            before, after = (sum(r[f"parameters_{when}"] for r in rows) for when in ("before", "after"))
            blank = [""] * ((len(_WIDE) if wide else len(_NARROW)) - 3)
            lines.append(_Line([block, *blank, change(before, after), ""], "bold", heading=True))
        lines += [_line(fold, block, wide) for fold in _folds(rows, all_layers)]
    return lines


def _line(fold: Fold, block: str, wide: bool) -> _Line:
    first = fold.rows[0]
    cells = [
        ("  " + fold.name.removeprefix(f"{block}.")) if block else fold.name,
        f"×{len(fold.rows)}" if len(fold.rows) > 1 else "",
        f"{first['kind']} {'×'.join(map(str, first['kernel_size']))}".strip(),
        fold.widths(),
        *([first["role"]] if wide else []),
        change(fold.total("parameters_before"), fold.total("parameters_after")),
        fold.becomes(wide),
    ]
    return _Line(cells, "dim" if first["operator"] is None else "green")


def _column_widths(rows: Sequence[Sequence[str]], room: int, wide: bool) -> list[int]:
    """What each column needs; the names and the last column share what is left, the names first."""
    need = [max(map(len, column)) for column in zip(*rows, strict=True)]
    need[_NARROW.index("widths")] = max(len(word) for row in rows for word in row[_NARROW.index("widths")].split(" "))
    last = min(need[-1], _REASON if wide else _OPERATOR)
    need[0] = max(_SHORTEST_NAME, min(need[0], room - sum(need[1:-1]) - last))
    need[-1] = min(need[-1], max(last, room - sum(need[:-1])))
    return need


def change(before: int, after: int) -> str:
    """ "1.18M → 54", or the one number where nothing changes."""
    return human(before) if before == after else f"{human(before)} → {human(after)}"


def broken_at_dots(name: str, width: int) -> str:
    """A name on as many lines as it takes, each but the first indented, and broken before a dot.

    Example:
        >>> broken_at_dots("up_blocks.0.attentions.1.to_q", 17)
        'up_blocks.0\\n    .attentions.1\\n    .to_q'
    """
    lines = [""]
    for part in re.findall(r"^[^.]*|\.[^.]*", name):
        if len(lines[-1]) + len(part) > width and lines[-1].strip():
            lines.append("    ")
        lines[-1] += part
    return "\n".join(lines)


def _folds(rows: Sequence[dict[str, Any]], all_layers: bool) -> Iterator[Fold]:
    folds: dict[Any, Fold] = {}
    for row in rows:
        pattern = row["name"] if all_layers else re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", row["name"])
        rule = row["rule"] if row["operator"] is None else ""
        key = (pattern, row["kind"], tuple(row["kernel_size"]), row["role"], row["decision"], rule)
        fold = folds.setdefault(key, Fold())
        fold.names.append(row["name"])
        fold.rows.append(row)
    yield from folds.values()


def _depth(layers: Sequence[dict[str, Any]]) -> int:
    """How many parts all names begin with alike."""
    names = [row["name"].split(".") for row in layers]
    depth = 0
    while all(len(n) > depth + 1 and n[depth] == names[0][depth] for n in names):
        depth += 1
    return depth


def _block(name: str, depth: int) -> str:
    """The first part of a name behind what all have in common, with that; "" for a layer that is in none."""
    parts = name.split(".")
    return ".".join(parts[: depth + 1]) if len(parts) > depth + 1 else ".".join(parts[:depth])
