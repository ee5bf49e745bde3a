"""Measurements and engines as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..scanning import human_bytes, ratio_text

PASSES = ("forward", "forward and backward")


def print_bench(report: dict[str, Any]) -> None:
    """One table for each kind of pass, and in words where the converted one is slower."""
    console = Console(highlight=False)
    if "shape" in report:
        machine = report["machine"]
        console.print(f"[bold]{'×'.join(map(str, report['shape']))}[/] {report['dtype']} on {machine['device']}")
        console.print(
            f"{machine['threads']} threads; copy {machine['copy_bytes_per_s'] / 1e9:.1f} GB/s, "
            f"matrix product {machine['matmul_flops_per_s'] / 1e9:.0f} Gflop/s"
        )
    else:
        console.print(f"[bold]{escape(report['model'])}[/] ({escape(report['source'])}), policy {report['policy']}")
        console.print(f"{report['threads']} threads on {report['device']}; {escape(report['inputs'])}")
    for name in PASSES:
        console.print()
        console.print(pass_table(name, report[name]))
    console.print("[dim]Candidates take turns; a ratio is the median over rounds, not that of the medians.[/]")
    for line in slower(report):
        console.print(f"[yellow]{line}[/]")


def slower(report: dict[str, Any]) -> list[str]:
    """Plain words for each kind of pass in which the replacement is slower than what it replaces."""
    ours, theirs = ("prismify", "dense") if "shape" in report else ("converted", "original")
    return [
        f"{name}: {ours} takes {1 / times:.2f} times as long as {theirs} here."
        for name in PASSES
        if (times := report[name][ours][f"times_{theirs}"]) < 1
    ]


def print_export(report: dict[str, Any]) -> None:
    """What was written, how far it is from the model, and how fast."""
    console = Console(highlight=False)
    details = [f"opset {report['opset']}", f"{report['nodes']:,} nodes"] if "opset" in report else []
    details = [human_bytes(report["bytes"]), *details]
    console.print(
        f"[bold]{escape(report['file'])}[/]: {escape(report['model'])}.{report['method']}, {', '.join(details)}"
    )
    if report.get("forms"):
        console.print("operators: " + ", ".join(f"{count} {form}" for form, count in report["forms"].items()))
    for side in ("inputs", "outputs"):
        shapes = [f"{name} {'×'.join(map(str, axes)) or 'scalar'}" for name, axes in report.get(side, {}).items()]
        if shapes:
            console.print(escape(f"{side}: {', '.join(shapes)}"))
    for sizes, most in report.get("differences", {}).items():
        console.print(escape(f"largest difference from the model: {most:.2g} ({sizes})"))
    if "times" in report:
        ours, dense = (report["times"].get(name) for name in ("exported", "dense"))
        text = f"onnxruntime: {ours['median_ms']:.3g} ms"
        if dense is not None:
            text += f"; the dense original {dense['median_ms']:.3g} ms, {ratio_text(report['times_dense'])} as long"
        console.print(text)
    for key in ("not_compared", "no_dense"):
        if key in report:
            console.print(f"[yellow]{key.replace('_', ' ')}: {escape(report[key])}[/]")


def print_engines(rows: list[dict[str, Any]]) -> None:
    """Which engine computes the operator where, in the order they are asked."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("engine", "devices", "here", "how"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = "[green]yes[/]" if row["available"] else f"[yellow]no: {escape(row['reason'])}[/]"
        details = ", ".join(f"{k} {v}" for k, v in row["details"].items())
        how = row["summary"] + (f" ({details})" if details else "")
        table.add_row(row["engine"], ", ".join(row["devices"]) or "all", here, escape(how))
    Console(highlight=False).print(table)


def print_compiled(seconds: dict[str, float]) -> None:
    """What was compiled ahead, and how long it took."""
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    Console(highlight=False).print(f"Compiled and kept for later processes: {parts}.")


def pass_table(title: str, rows: dict[str, dict[str, Any]]) -> Table:
    """One kind of pass: a row for each candidate."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    against = "times_dense" if "times_dense" in next(iter(rows.values())) else "times_original"
    shares = {"share_of_copy": "of copy", "share_of_matmul": "of product"}
    table.add_column(title)
    headings = ["median ms", "spread", against.replace("_", " "), "peak memory"]
    headings += [text for key, text in shares.items() if key in next(iter(rows.values()))]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = [
            f"{row['median_ms']:.3g}",
            f"{row['fastest_ms']:.3g}-{row['slowest_ms']:.3g}",
            f"[bold]{ratio_text(row[against])}[/]",
            human_bytes(row["peak_bytes"]),
            *(f"{row[key]:.1%}" for key in shares if key in row),
        ]
        table.add_row(name, *cells)
    return table
