"""A table of the paper with ours beside: plain data, and as Markdown."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

#: What follows a printed number, and what it stands for.
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6}


@dataclass(frozen=True)
class Table:
    """Rows of cells, and what is to be said of them.

    Args:
        name: as the command line has it.
        title: one line.
        columns: headings.
        rows: as many cells each: text, numbers, or None for an empty cell.
        notes: sentences below.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """For JSON: rows are objects by their headings."""
        return {**asdict(self), "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows]}

    def markdown(self) -> str:
        """The title, the table, and the notes."""
        sides = ["---:" if any(_is_number(row[i]) for row in self.rows) else "---" for i in range(len(self.columns))]
        lines = [f"# {self.title}", "", _line(self.columns), _line(sides)]
        lines += [_line(map(_shown, row)) for row in self.rows]
        lines += [line for note in self.notes for line in ("", note)]
        return "\n".join(lines) + "\n"


def agrees(number: float, printed: str) -> bool:
    """Whether a number is a printed one, to one unit of its last digit, as "25.3M".

    Example:
        >>> agrees(25_366_335, "25.3M"), agrees(25_366_335, "25.1M")
        (True, False)
    """
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?([KM]?)", printed)
    if found is None:
        raise ValueError(f"{printed!r} is no printed number")
    unit = _UNITS[found[3]]
    return abs(number - float(printed.removesuffix(found[3])) * unit) <= unit * 10.0 ** -len(found[2] or "")


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return (
        f"{cell:,.6g}"
        if isinstance(cell, (int, float)) and abs(cell) < 1e6
        else f"{cell:,}"
        if _is_number(cell)
        else str(cell)
    )
