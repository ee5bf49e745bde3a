"""Reports as tables on the terminal, and as JSON on stdout."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..report import RULES, excluded_text, human, human_bytes, inputs_text, operator_text, ratio_text

_NARROWEST = 100  # a table of layers is unreadable in less


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
        seen = list(dict.fromkeys((row["in_channels"], row["out_channels"]) for row in self.rows))
        shown = [f"{a}→{b}" for a, b in sorted(seen)]
        return shown[0] if len(shown) == 1 else f"{shown[0]} … {shown[-1]}"

    def becomes(self) -> str:
        """What takes the layers' place, or why they are kept."""
        operators = list(dict.fromkeys(operator_text(row) for row in self.rows))
        if self.rows[0]["operator"] is not None:
            return operators[0] if len(operators) == 1 else operators[0].partition(",")[0] + ", volumes"
        reasons = {row["reason"] for row in self.rows}
        return reasons.pop() if len(reasons) == 1 else RULES.get(self.rows[0]["rule"], "")


def print_json(report: dict[str, Any]) -> None:
    """The whole report on stdout, and nothing else."""
    json.dump(report, sys.stdout, indent=1)
    sys.stdout.write("\n")


def print_written(output: Path) -> None:
    """What to do next with a converted folder."""
    Console(highlight=False, soft_wrap=True).print(
        f"Written to [bold]{escape(str(output))}[/]: model.safetensors, report.md, recipe.yaml.\n"
        f"Load it with [bold]prismify.load({escape(repr(str(output)))})[/]; retrain it as recipe.yaml says."
    )


def print_report(report: dict[str, Any], *, all_layers: bool = False) -> None:
    """Totals, the layers by block, what was kept and why, and how the model was read."""
    console = Console(highlight=False)
    if not console.is_terminal and console.width < _NARROWEST:
        console = Console(highlight=False, width=_NARROWEST + 20)
    if "parts" in report:
        console.print(f"[bold]{escape(report['source'])}[/], a pipeline of {len(report['parts'])} models")
        console.print(_totals(report))
        _print_excluded(console, report)
        for name, part in report["parts"].items():
            console.print()
            console.rule(f"[bold]{escape(name)}[/]")
            _print_model(console, part, all_layers)
    else:
        _print_model(console, report, all_layers)


def _print_model(console: Console, report: dict[str, Any], all_layers: bool) -> None:
    console.print(f"[bold]{escape(report['model'])}[/] ({escape(report['source'])}), policy {report['policy']['name']}")
    console.print(_layers(report, all_layers))
    console.print(_totals(report))
    _print_excluded(console, report)
    replaced = report["replaced"]
    console.print(
        f"Replaced: {replaced['layers']} layers, {human(replaced['parameters_before'])} → "
        f"{human(replaced['parameters_after'])} parameters. Norms and other parameters: "
        f"{human(report['other_parameters'])}."
    )
    for group in report["kept"]:
        console.print(
            f"Kept: {group['layers']} {group['meaning']}: {human(group['parameters'])} "
            f"({group['share_of_result']:.1%} of the result)."
        )
    for row in report["capture"]:
        console.print(f"[dim]Read {row['method']} by {row['technique']} with {escape(inputs_text(row))}.[/]")
        for reason in row["failed"]:
            console.print(f"[dim]  not by {escape(reason)}[/]")
    for note in report["notes"]:
        console.print(f"[yellow]{escape(note)}[/]")


def _print_excluded(console: Console, report: dict[str, Any]) -> None:
    excluded = "; ".join(excluded_text(e) for e in report["parameters"]["excluded"]) or "nothing"
    console.print(
        f"Not in the parameter counts: {escape(excluded)}. Multiply-adds: {escape(report['macs']['inputs'])}."
    )


def _totals(report: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "before", "after", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    names = (("parameters", "parameters", human), ("multiply-adds", "macs", human))
    for name, key, text in (*names, ("checkpoint", "size_bytes", human_bytes)):
        row = report[key]
        table.add_row(name, text(row["before"]), text(row["after"]), f"[bold]{ratio_text(row['ratio'])}[/]")
    return table


def _layers(report: dict[str, Any], all_layers: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("layer", overflow="fold", ratio=4)
    table.add_column("", justify="right")
    table.add_column("kind", no_wrap=True)
    table.add_column("widths", overflow="fold", min_width=9)
    table.add_column("role", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("becomes, or why it is kept", overflow="fold", ratio=5)
    for block, rows in groupby(report["layers"], key=lambda row: _block(row["name"], report["layers"])):
        members = list(rows)
        before, after = (sum(r[f"parameters_{when}"] for r in members) for when in ("before", "after"))
        table.add_row(Text(block or "model", style="bold"), "", "", "", "", f"[bold]{_change(before, after)}[/]", "")
        for fold in _folds(members, all_layers):
            first = fold.rows[0]
            replaced = first["operator"] is not None
            table.add_row(
                "  " + escape(_below(fold.name, block)),
                f"×{len(fold.rows)}" if len(fold.rows) > 1 else "",
                _kind(first),
                fold.widths(),
                first["role"],
                _change(fold.total("parameters_before"), fold.total("parameters_after")),
                Text(fold.becomes(), style="green" if replaced else "dim"),
            )
    return table


def _folds(rows: list[dict[str, Any]], all_layers: bool) -> Iterator[Fold]:
    folds: dict[Any, Fold] = {}
    for row in rows:
        pattern = row["name"] if all_layers else re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", row["name"])
        kept = row["operator"] is None
        key = (
            pattern,
            row["kind"],
            tuple(row["kernel_size"]),
            row["role"],
            row["decision"],
            row["rule"] if kept else "",
        )
        fold = folds.setdefault(key, Fold())
        fold.names.append(row["name"])
        fold.rows.append(row)
    yield from folds.values()


def _block(name: str, rows: list[dict[str, Any]]) -> str:
    """The first part of a name, or as many as it takes to tell blocks apart."""
    depth = 0
    names = [row["name"].split(".") for row in rows]
    while all(len(n) > depth + 1 and n[depth] == names[0][depth] for n in names):
        depth += 1
    parts = name.split(".")
    return ".".join(parts[: depth + 1]) if len(parts) > depth + 1 else ".".join(parts[:depth])


def _below(name: str, block: str) -> str:
    return name.removeprefix(f"{block}.") if block else name


def _kind(row: dict[str, Any]) -> str:
    kernel = "×".join(map(str, row["kernel_size"]))
    return f"{row['kind']} {kernel}".strip()


def _change(before: int, after: int) -> str:
    return human(before) if before == after else f"{human(before)} → {human(after)}"
