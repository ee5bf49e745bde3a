"""`prismify bench` on a few feature maps and on whole models, on this machine's processor.

    python benchmarks/performance.py

writes benchmarks/results/performance-cpu.json and docs/performance.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHAPES = ("8,256,32,32", "4,256,64,64", "1,256,128,128", "8,64,32,32")
MODELS = (("examples/configs/ldm-autoencoder-256", "8,3,32,32"),)
PASSES = ("forward", "forward and backward")
THREADS = "2"


def bench(*arguments: str) -> dict[str, Any]:
    """One `prismify bench --json` in a fresh process."""
    command = [str(Path(sys.executable).parent / "prismify"), "bench", *arguments, "--threads", THREADS, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environment)
    return json.loads(done.stdout)


def ms(row: dict[str, Any]) -> str:
    return f"{row['median_ms']:.3g} ({row['fastest_ms']:.3g}-{row['slowest_ms']:.3g})"


def shape_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for name in PASSES:
        dense, listing, ours = (report[name][k] for k in ("dense", "listing", "prismify"))
        lines.append(
            f"| {'×'.join(map(str, report['shape']))} | {name} | {ms(dense)} | {ms(listing)} | {ms(ours)} | "
            f"{ours['times_dense']:.1f}× | {listing['median_ms'] / ours['median_ms']:.1f}× | "
            f"{ours['share_of_copy']:.0%} | {ours['share_of_matmul']:.0%} |"
        )
    return lines


def model_lines(report: dict[str, Any]) -> list[str]:
    rows = []
    for name in PASSES:
        before, after = report[name]["original"], report[name]["converted"]
        memory = f"{before['peak_bytes'] / 2**20:.0f} → {after['peak_bytes'] / 2**20:.0f} MiB"
        ratio = f"{after['times_original']:.1f}×"
        rows.append(f"| {report['source']} | {name} | {ms(before)} | {ms(after)} | {ratio} | {memory} |")
    return rows


def main() -> None:
    shapes = [bench(shape) for shape in SHAPES]
    models = [bench(source, "--input", size, "--seconds", "3") for source, size in MODELS]
    import numba
    import torch

    machine = (
        f"{platform.machine()}, {THREADS} threads, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numba {numba.__version__}; copy {max(s['machine']['copy_bytes_per_s'] for s in shapes) / 1e9:.1f} GB/s, "
        f"2048-square float32 product {max(s['machine']['matmul_flops_per_s'] for s in shapes) / 1e9:.0f} Gflop/s"
    )
    result = {"machine": machine, "shapes": shapes, "models": models}
    (ROOT / "benchmarks" / "results" / "performance-cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    page = [
        "# Performance",
        "",
        "Written by `python benchmarks/performance.py`, which runs `prismify bench`. Milliseconds are medians over",
        "five rounds in which the candidates take turns, with the fastest and slowest round behind; ratios compare",
        "medians of one run.",
        "",
        f"Machine: {machine}. No GPU was at hand: the Triton engine is not measured.",
        "",
        "## The operator, float32",
        "",
        "Dense is `Conv2d(C, C, 3)`, the listing the paper's `Conv3d(1, 1, 3)`. Shares are of copy bandwidth (two",
        "tensors forward, six with backward) and of the product's rate (54 flops an element and pass).",
        "",
        "| shape | pass | dense ms | listing ms | prismify ms | over dense | over listing | of copy | of product |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        *(line for report in shapes for line in shape_lines(report)),
        "",
        "## Whole models",
        "",
        "| model | pass | original ms | converted ms | faster | tensors at the peak |",
        "|---|---|---:|---:|---:|---:|",
        *(line for report in models for line in model_lines(report)),
    ]
    (ROOT / "docs" / "performance.md").write_text("\n".join(page) + "\n")
    print("\n".join(page))


if __name__ == "__main__":
    main()
