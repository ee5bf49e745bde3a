"""The data of a page: a report with its layers packed in columns, beside what is known of a search and of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..scanning import operator_text, slower

#: Of a report, what no page shows: every layer says its own part of an attention, and `becomes` its operator.
_UNSHOWN = ("attention", "origin")


def document_of(
    report: Mapping[str, Any] | None,
    *,
    search: Mapping[str, Any] | None = None,
    runs: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Everything that a page shows, as plain data.

    Args:
        report: of one model, or of a pipeline; None where runs trained a model that was not converted.
        search: what a search found, as `prismify.search.search_section` says it.
        runs: runs that trained the model, as `prismify.training.engine.telling.run_section` says each.
    """
    return {
        "report": None if report is None else _packed_report(report),
        "search": None if search is None else dict(search),
        "runs": [dict(run) for run in runs],
    }


def _packed_report(report: Mapping[str, Any]) -> dict[str, Any]:
    if "parts" in report:
        return {**report, "parts": {name: _packed_report(part) for name, part in report["parts"].items()}}
    rows = [{**row, "becomes": operator_text(row)} for row in report["layers"]]
    shown = {key: value for key, value in report.items() if key not in _UNSHOWN}
    if "latency" in report:
        shown["slower"] = slower(report["latency"])
    return {**shown, "fresh": report.get("origin", {}).get("weights") == "fresh", "layers": packed(rows)}


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as columns. One whose values repeat holds each of them once, and the rows say which: names and reasons of
    thousands of layers take a tenth of the room.

    Example:
        >>> packed([{"role": "inner"}, {"role": "inner"}, {"role": "input"}])
        {'role': {'values': ['inner', 'input'], 'rows': [0, 0, 1]}}
    """
    columns: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        distinct = list({repr(value): value for value in values}.values())
        if len(distinct) > 0.7 * len(values):
            columns[key] = {"values": values, "rows": None}
            continue
        numbers = {repr(value): number for number, value in enumerate(distinct)}
        columns[key] = {"values": distinct, "rows": [numbers[repr(value)] for value in values]}
    return columns


def unpacked(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `packed` was given; what one of them lacked is None.

    Example:
        >>> unpacked({"role": {"values": ["inner"], "rows": [0, 0]}})
        [{'role': 'inner'}, {'role': 'inner'}]
    """
    whole = {
        key: column["values"] if column["rows"] is None else [column["values"][number] for number in column["rows"]]
        for key, column in columns.items()
    }
    return [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]
