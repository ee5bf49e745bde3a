"""What docs/results.md says of `paper.py`: the paper's tables beside ours."""

from __future__ import annotations

from typing import Any

import places

from prismify.paper import Table
from prismify.paper.budgets import BUDGETS
from prismify.paper.figure import draw_figure_1, figure_1, table_4
from prismify.paper.methods import table_4_methods


def trained(points: list[dict[str, Any]]) -> list[str]:
    """Figure 1, and below it Table 4 from the same points."""
    draw_figure_1(points, places.FIGURE_1)
    names = {(m.family, m.name) for m in table_4_methods(BUDGETS["laptop"])}
    own = [p for p in points if (p["family"], p["name"]) in names]
    return [
        *_section(figure_1(points)),
        "",
        f"![PSNR against parameters](images/{places.FIGURE_1.name})",
        *(_section(table_4(own)) if own else []),
        "",
        "    python benchmarks/paper.py points --data TRAIN --test TEST --lpips ALEX --features RESNET --runs RUNS",
    ]


def table(data: dict[str, Any]) -> list[str]:
    """A table that was measured."""
    rows = tuple(tuple(row.values()) for row in data["rows"])
    made = Table(data["name"], data["title"], tuple(data["columns"]), rows, tuple(data["notes"]))
    return [*_section(made), "", f"    {data['command']}"]


def _section(made: Table) -> list[str]:
    return ["", *f"#{made.markdown()}".splitlines()]
