"""What docs/performance.md says of `since.py`."""

from __future__ import annotations

import json
from typing import Any

import places


def section() -> list[str]:
    """An earlier checkout beside this one; nothing where that was not measured."""
    if not places.SINCE.is_file():
        return []
    report: dict[str, Any] = json.loads(places.SINCE.read_text())
    first = report["first_use"]
    return [
        "",
        "## Before and after",
        "",
        f"From `python benchmarks/since.py {report['before']}`, {report['machine']}, {report['threads']} threads,",
        f"torch {report['torch']}, {report['date']}: that commit beside the one measured, which take turns,",
        "milliseconds; a ratio is the median of the rounds' with quartiles. Blocks are GroupNorm, SiLU, operator and",
        "residual sum.",
        "",
        "Where nothing is compiled yet, a first call takes",
        f"{first['before']['call']:.1f} → {first['now']['call']:.1f} s, and a first training step",
        f"{first['before']['step']:.1f} → {first['now']['step']:.1f} s.",
        "",
        *_table(report["rows"], "this"),
        "",
        "As on a processor with AVX2 and nothing later:",
        "",
        *_table(report["rows"], "AVX2"),
        "",
        "What the tensors of a pass take at the peak, weights not counted:",
        "",
        "| | pass | before → after |",
        "|---|---|---:|",
        *(
            f"| {row['name']} | {row['pass']} | {row['mib']['before']:.3g} → {row['mib']['now']:.3g} MiB |"
            for row in report["memory"]
        ),
    ]


def _table(rows: list[dict[str, Any]], processor: str) -> list[str]:
    lines = [_line(row) for row in rows if row["processor"] == processor]
    return ["| | pass | before → after | faster |", "|---|---|---:|---:|", *lines]


def _line(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    times = f"{row['before_ms']:.3g} → {row['now_ms']:.3g}"
    return f"| {row['name']} | {row['pass']} | {times} | {row['faster']:.2f}× ({low:.2f}-{high:.2f}) |"
