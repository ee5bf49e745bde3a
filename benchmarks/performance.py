"""`prismify bench` on a few feature maps and on whole models, on this machine's processor.

    python benchmarks/operator.py && python benchmarks/fusion.py && python benchmarks/performance.py

The last writes benchmarks/results/performance-cpu.json and, with the others' results, docs/performance.md; with
--page-only it measures nothing and writes the page from the results that are there.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import performance_denoisers
import performance_since
import places

ROOT = Path(__file__).parents[1]
SHAPES = ("8,256,32,32", "4,256,64,64", "1,256,128,128", "8,64,32,32")
MODELS = (("examples/configs/ldm-autoencoder-256", "8,3,32,32"),)
RESULTS = ROOT / "benchmarks" / "results"
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
        before, after, fused = (report[name][k] for k in ("original", "converted", "fused"))
        memory = " → ".join(f"{row['peak_bytes'] / 2**20:.0f}" for row in (before, after, fused)) + " MiB"
        rows.append(
            f"| {report['source']} | {name} | {ms(before)} | {ms(after)} | {after['times_original']:.1f}× | "
            f"{ms(fused)} | {fused['times_original']:.1f}× | {memory} |"
        )
    return rows


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return content


def operator_lines(report: dict[str, Any]) -> list[str]:
    """Every shape of the sweep: times faster than the dense layer and the listing, with quartiles."""
    lines = []
    for row in report["rows"]:
        layout = ", channels last" if row["channels_last"] else ""
        ratios = (row["times_ours"][name] for name in ("dense", "listing"))
        cells = (f"{r['median']:.1f}× ({r['low']:.1f}-{r['high']:.1f})" for r in ratios)
        limit = f"{row['share_of_limit']:.0%} of {row['binds']}" if "binds" in row else ""
        shape = "×".join(map(str, row["shape"]))
        lines.append(
            f"| {shape} {row['dtype']}{layout} | {row['pass']} | {row['ms']['ours']['median']:.3g} | "
            f"{' | '.join(cells)} | {limit} |"
        )
    return lines


def older_lines() -> list[str]:
    """The same on a processor without AVX-512, as far as one that has it shows."""
    if not places.OPERATOR_AVX2.is_file():
        return []
    report = json.loads(places.OPERATOR_AVX2.read_text())
    return [
        "",
        f"As on a processor with AVX2 and nothing later (`python benchmarks/operator.py --avx2`, {report['date']}):",
        "torch, oneDNN and Numba are told to use no later instructions, on the same machine.",
        "",
        "| shape | pass | prismify ms | over dense | over listing | share of the limit |",
        "|---|---|---:|---:|---:|---:|",
        *operator_lines(report),
    ]


def fusion_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for row in report["rows"]:
        cells = []
        for job in ("forward_ms", "forward_backward_ms"):
            apart, one = (row[job][form]["median"] for form in ("unfused", "fused"))
            cells += [f"{apart:.3g} → {one:.3g}", f"{apart / one:.2f}×"]
        kept = " → ".join(f"{row['saved_bytes'][form] / 2**20:.3g}" for form in ("unfused", "fused"))
        lines.append(f"| {'×'.join(map(str, row['shape']))} {row['dtype']} | {' | '.join(cells)} | {kept} MiB |")
    return lines


def measure() -> dict[str, Any]:
    shapes = [bench(shape) for shape in SHAPES]
    models = [bench(source, "--input", size, "--seconds", "3") for source, size in MODELS]
    import numba
    import torch

    machine = (
        f"{places.processor()}, {THREADS} threads, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numba {numba.__version__}; copy {max(s['machine']['copy_bytes_per_s'] for s in shapes) / 1e9:.1f} GB/s, "
        f"2048-square float32 product {max(s['machine']['matmul_flops_per_s'] for s in shapes) / 1e9:.0f} Gflop/s"
    )
    result = {"date": places.today(), "machine": machine, "shapes": shapes, "models": models}
    (RESULTS / "performance-cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def onnx_lines(report: dict[str, Any]) -> list[str]:
    """A row for each shape and model, a column for each form."""
    forms = list(dict.fromkeys(form for row in report["rows"] for form in row["forms"]))
    lines = [f"| | {' | '.join(forms)} | file of `auto` |", "|---|" + "---:|" * (len(forms) + 1)]
    for row in report["rows"]:
        cells = []
        for form in forms:
            found = row["forms"].get(form)
            times = "" if found is None or form == "dense layer" else f" ({found['times_dense']:.1f}×)"
            cells.append("" if found is None else f"{found['median_ms']:.3g}{times}")
        size = row["forms"]["auto"]["bytes"] / 1024
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {size:,.0f} KiB |")
    return lines


def onnx_section() -> list[str]:
    """What ONNX Runtime makes of the operator and of whole models; nothing where that was not measured."""
    if not places.ONNX.is_file():
        return []
    report = json.loads(places.ONNX.read_text())
    most = max(found["difference"] for row in report["rows"] for found in row["forms"].values())
    return [
        "",
        "## In ONNX Runtime",
        "",
        f"From `python benchmarks/onnx_forms.py`, {report['machine']}, {report['date']}: milliseconds of a run,",
        "and how many times faster than the dense layer's (or model's) file; [forms](export.md) of the operator.",
        "Threads do not spin between runs, so that the candidates, which take turns, leave one another alone.",
        f"No output is farther than {most:.1g} from the model's.",
        "",
        *onnx_lines(report),
    ]


def main() -> None:
    if "--page-only" not in sys.argv[1:]:
        measure()
    print(write_page())


def write_page() -> str:
    """docs/performance.md, from all that was measured."""
    result = read("performance-cpu.json")
    sweep, fusion = read("operator-cpu.json"), read("fusion-cpu.json")
    seconds = sweep["first_call_seconds"]
    machine, shapes, models = result["machine"], result["shapes"], result["models"]
    page = [
        "# Performance",
        "",
        "Written by `python benchmarks/performance.py`, which runs `prismify bench`. Milliseconds are medians over",
        "five rounds in which the candidates take turns, with the fastest and slowest round behind; ratios are the",
        "medians of the rounds' ratios.",
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
        "Fused is the same converted model under `prismify.fuse`.",
        "",
        "| model | pass | original ms | converted ms | faster | fused ms | faster | tensors at the peak |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *(line for report in models for line in model_lines(report)),
        "",
        "## More shapes",
        "",
        "From `python benchmarks/operator.py`: medians of the rounds' ratios with their quartiles. Shapes of three",
        "axes are tokens: `Prism` against `Linear(C, C)` and `Conv1d(1, 1, 3)`. The limit is the time of a copy or of",
        "the multiply-adds at the peak that registers allow, whichever is longer; a measured peak moves with the load.",
        "Half-precision maps are widened in registers, so that their multiply-adds are float32's; a dense convolution",
        "has instructions of its own for bfloat16 on some processors, which make it faster, and the ratio smaller.",
        f"The first call ever compiles for {seconds['call']} s, a first training step for {seconds['step']} s; a later",
        f"process finds the machine code on disk, and its first step takes {seconds['cached']} s.",
        "",
        "| shape | pass | prismify ms | over dense | over listing | share of the limit |",
        "|---|---|---:|---:|---:|---:|",
        *operator_lines(sweep),
        *older_lines(),
        "",
        "## Fused blocks",
        "",
        "From `python benchmarks/fusion.py`: GroupNorm, SiLU, DeepPrism and residual sum one after the other → in one",
        "pass (`prismify.fuse`), milliseconds; and what is kept for the backward pass besides the arguments.",
        "",
        "| shape | forward | faster | forward and backward | faster | kept |",
        "|---|---:|---:|---:|---:|---:|",
        *fusion_lines(fusion),
    ]
    page += performance_denoisers.section()
    page += performance_since.section()
    page += onnx_section()
    text = "\n".join(page) + "\n"
    (ROOT / "docs" / "performance.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
