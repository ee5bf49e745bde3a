"""What docs/performance.md says of `denoisers.py`."""

from __future__ import annotations

import json
from typing import Any

import places

#: In this order; the last is what remains.
KINDS = ("convolution", "operators", "attention product", "linear", "norm", "rest")


def section() -> list[str]:
    """Times of whole denoisers and where they go; nothing where that was not measured."""
    if not places.DENOISERS.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(places.DENOISERS.read_text())
    days = sorted({row["date"] for row in rows})
    return [
        "",
        "## Whole denoisers",
        "",
        f"From `python benchmarks/denoisers.py`, {rows[0]['hardware']}, torch {rows[0]['torch']},",
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}: fresh weights, milliseconds a pass (the median of rounds",
        "in which the models take turns) and how many times faster than the dense model's; with backward, the",
        "gradients of all weights. Hosts changed between rows: compare within one. The last column is the most memory",
        "that the tensors of a pass take at once, weights not counted.",
        "",
        "| model | policy | parameters | batch | pass | dense | converted | fused | tensors at the peak |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|",
        *(line for row in rows for line in _lines(row)),
        "",
        "Where a forward pass goes, in percent: layers by kind (`operators` are those of the paper), the product of",
        "attention, and the rest (activations, sums, reshapes, Python).",
        "",
        f"| model | policy | batch | | {' | '.join(KINDS)} |",
        f"|---|---|---:|---|{'---:|' * len(KINDS)}",
        *(_share(row, which) for row in rows for which in ("dense", "converted")),
    ]


def _lines(row: dict[str, Any]) -> list[str]:
    size = " → ".join(f"{row['parameters'][key]:,}" for key in ("dense", "converted"))
    lines = []
    for title in ("forward", "forward and backward"):
        found = row[title]
        cells = [f"{found['dense']['median_ms']:.3g}"]
        for key in ("converted", "fused"):
            cells.append(f"{found[key]['median_ms']:.3g} ({found[key]['times_dense']:.1f}×)" if key in found else "")
        memory = " → ".join(f"{one['peak_bytes'] / 2**20:.0f}" for one in found.values()) + " MiB"
        what = f"{row['name']}, {row['shape']} | {row['policy']} | {size}"
        lines.append(f"| {what} | {row['batch']} | {title} | {' | '.join(cells)} | {memory} |")
    return lines


def _share(row: dict[str, Any], which: str) -> str:
    found = row["shares"][which]
    cells = " | ".join(f"{100 * found[kind]:.0f}" if kind in found else "" for kind in KINDS)
    return f"| {row['name']} | {row['policy']} | {row['batch']} | {which} | {cells} |"
