"""Reports on the terminal, and as JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..families import FAMILIES
from ..scanning import excluded_text, human, human_bytes, inputs_text, ratio_text, slower
from ..validation import finite
from .measurements import PASSES, pass_table
from .table import layer_table
from .terminal import prose

_LEAST_WIDTH = 76
_FILE_WIDTH = 140  # columns where there is no terminal and nobody says how many


def print_json(report: dict[str, Any]) -> None:
    """The whole report on stdout, and nothing else; what is not a finite number is null."""
    json.dump(finite(report), sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def print_written(output: Path, manifest: dict[str, Any]) -> None:
    """What to do next with a converted folder."""
    parts = manifest.get("parts")
    model = "model.pt2" if manifest.get("model", {}).get("kind") == "exported" else "model.safetensors"
    names = [Path()] if parts is None else [Path(part) for part in parts]
    recipes = [str(name / "recipe.yaml") for name in names if (output / name / "recipe.yaml").is_file()]
    files = ", ".join([model, "report.md", "report.html", *recipes])
    if parts is not None:
        files = f"a pipeline with {', '.join(parts)} converted"
    call = ", ".join([repr(str(output)), *_flags(manifest.get("model", {}))])
    registered = {str(kind).rpartition(".")[0]: None for kind in manifest.get("operators", {}).values()}
    first = f", after import {', '.join(registered)}" if registered else ""
    retrain = f"; retrain it as {', '.join(recipes)} {'say' if len(recipes) > 1 else 'says'}" if recipes else ""
    prose().print(
        f"\nWritten to [bold]{escape(str(output))}[/]: {files}.\n"
        f"Load it with [bold]prismify.load({escape(call)})[/]{escape(first)}{retrain}."
    )


def _flags(model: dict[str, Any]) -> list[str]:
    """What loading a folder asks to be allowed."""
    if model.get("kind") == "reference" and model["reference"].rpartition(":")[0] not in FAMILIES:
        return ["trust_code=True"]
    if model.get("kind") == "skeleton" and model["class"].partition(".")[0] not in ("torch", *FAMILIES):
        return [f"allow=[{model['class']!r}]"]
    return []


def print_report(report: dict[str, Any], *, all_layers: bool = False) -> None:
    """Totals, the layers by block, what was kept and why, and how the model was read."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_FILE_WIDTH)
    elif console.width < _LEAST_WIDTH:  # lines that wrap are ugly; numbers cut short are wrong
        console = Console(highlight=False, width=_LEAST_WIDTH)
    if "parts" not in report:
        _print_model(console, report, all_layers)
        return
    parts = len(report["parts"])
    models = "1 model" if parts == 1 else f"{parts} models"
    console.print(f"[bold]{escape(report['source'])}[/], a pipeline of {models}")
    console.print(_totals(report))
    _print_excluded(console, report)
    for name, part in report["parts"].items():
        console.print()
        console.rule(f"[bold]{escape(name)}[/]", align="left")
        _print_model(console, part, all_layers)


def _print_model(console: Console, report: dict[str, Any], all_layers: bool) -> None:
    console.print(
        f"[bold]{escape(report['model'])}[/] ({escape(report['source'])}), policy {report['policy']['name']}\n"
    )
    console.print(layer_table(report, console.width, all_layers))
    console.print()
    console.print(_totals(report))
    _print_excluded(console, report)
    replaced = report["replaced"]
    console.print(
        f"Replaced: {replaced['layers']} layers, {human(replaced['parameters_before'])} → "
        f"{human(replaced['parameters_after'])} parameters. Norms and other parameters: "
        f"{human(report['other_parameters'])}."
    )
    if report["kept"]:
        console.print()
        console.print(_kept(report))
    if "latency" in report:
        _print_latency(console, report["latency"])
    console.print()
    for row in report["capture"]:
        console.print(f"[dim]Read {row['method']} by {row['technique']} with {escape(inputs_text(row))}.[/]")
        for reason in row["failed"]:
            console.print(f"[dim]  not by {escape(reason)}[/]")
    if report["origin"].get("weights") == "fresh":
        console.print("[yellow]The source is an architecture without weights: every weight is fresh.[/]")
    for note in report["notes"]:
        console.print(f"[yellow]{escape(note)}[/]")


def _print_latency(console: Console, latency: dict[str, Any]) -> None:
    console.print()
    console.print(
        f"Measured on {escape(latency['device'])}, {latency['threads']} threads, {latency['method']}: "
        f"{escape(latency['inputs'])}."
    )
    for name in PASSES:
        console.print()
        console.print(pass_table(name, latency[name]))
    for line in slower(latency):
        console.print(f"[yellow]{escape(line)}[/]")
    if latency["not_fused"] is not None:
        console.print(f"[dim]Not measured fused: {escape(latency['not_fused'])}[/]")


def _print_excluded(console: Console, report: dict[str, Any]) -> None:
    excluded = "; ".join(excluded_text(e) for e in report["parameters"]["excluded"]) or "nothing"
    counted = report["macs"]["inputs"] or "of nothing, for nothing could be run"
    console.print(f"Not in the parameter counts: {escape(excluded)}. Multiply-adds: {escape(counted)}.")


def _totals(report: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "before", "after", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    names = (("parameters", "parameters", human), ("multiply-adds", "macs", human))
    for name, key, text in (*names, ("checkpoint", "size_bytes", human_bytes)):
        row = report[key]
        table.add_row(name, text(row["before"]), text(row["after"]), f"[bold]{ratio_text(row['ratio'])}[/]")
    return table


def _kept(report: dict[str, Any]) -> Table:
    """What keeps the ratio where it is."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("kept", "layers", "parameters", "of the result"):
        table.add_column(heading, justify="left" if heading == "kept" else "right", no_wrap=heading != "kept")
    for group in report["kept"]:
        share = f"{group['share_of_result']:.1%}"
        table.add_row(escape(group["meaning"]), str(group["layers"]), human(group["parameters"]), share)
    return table
