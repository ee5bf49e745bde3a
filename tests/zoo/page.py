"""The zoo as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping

from .row import Row
from .walk import STEPS, Result

_COLUMNS = STEPS[1:]


def markdown(groups: Mapping[str, tuple[Row, ...]], results: Mapping[str, Result]) -> str:
    """The page that `python -m tests.zoo` writes."""
    green = sum(r.green for r in results.values())
    days, machines = (sorted({getattr(r, name) for r in results.values()}) for name in ("date", "machine"))
    by_hand = sum(row.roles is not None for rows in groups.values() for row in rows)
    lines = [
        "# The zoo",
        "",
        f"**{green} of {len(results)}** architectures, small, are green in everything that prismify does.",
        f"Written by `python -m tests.zoo` from what was walked {days[0]} to {days[-1]} ({'; '.join(machines)});",
        "the rows are in `tests/zoo/table`.",
        "",
        "* *scan*: the model was captured as a graph; every layer is in the report once, replaced or kept with a",
        "  reason; the totals are the unique parameters.",
        f"* *roles*: as written down by hand ({by_hand} rows); and for all rows: what autograd says reads the data",
        "  first and writes the result last is called so.",
        "* *convert*, *forward*, *backward*: same output shapes, the promised number of parameters, the original",
        "  untouched, a finite gradient to every new weight.",
        "* *save*, *load*: bit-identical outputs in a fresh process. *export*: by `torch.export`, same outputs.",
        "",
        "Policy is `paper`, or the least of `volumes` and `volumes --feed-forward` that has something to replace. The",
        "ratios are those of small models: [full-size ones](scan.md) are scanned on `meta`.",
        "",
    ]
    for group, rows in groups.items():
        lines += [f"## {group}", "", "| | layers | replaced | policy | ratio | " + " | ".join(_COLUMNS) + " |"]
        lines.append("|---|---:|---:|---|---:|" + ":-:|" * len(_COLUMNS))
        lines += [_row(results[row.name]) for row in rows if row.name in results]
        reasons = [f"* {row.name}, {text}" for row in rows for text in _reasons(row, results.get(row.name))]
        lines += ["", *reasons, ""] if reasons else [""]
    return "\n".join(lines).rstrip() + "\n"


def _row(result: Result) -> str:
    before, after = result.parameters
    ratio = f"{before / after:.3g}×" if result.replaced and after else "-"
    marks = " | ".join({"ok": "✓", None: "-"}.get(result.steps.get(step), "✗") for step in _COLUMNS)
    return f"| {result.name} | {result.layers} | {result.replaced} | {result.policy} | {ratio} | {marks} |"


def _reasons(row: Row, result: Result | None) -> list[str]:
    wrong = [(step, text) for step, text in (result.steps if result else {}).items() if text != "ok"]
    return [f"{step}: {row.red.get(step, text)}" for step, text in wrong]
