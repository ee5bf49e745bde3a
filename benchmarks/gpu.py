"""The operator on a CUDA device: checks it against the definition, then times it, and writes both down.

    python benchmarks/gpu.py [--output benchmarks/results/operator-gpu.json] [--tune]

A wrong result is written down too, and the exit status says so. Times are of CUDA events around calls on
several sets of inputs in turn, larger together than the cache; bandwidth is in shares of a copy's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prismify.kernels import deep_prism, engines_report, prism, reference  # noqa: E402
from prismify.kernels.cuda import run as cuda_run  # noqa: E402
from prismify.kernels.problem import Geometry, make_problem  # noqa: E402

#: float32 from 64 MiB up; bfloat16 of the same shapes is half of that.
SHAPES = [(64, 256, 32, 32), (16, 256, 64, 64), (4, 256, 128, 128), (8, 320, 64, 64), (4, 128, 256, 256)]
TOKENS = [(64, 1024, 256), (16, 4096, 320)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CHECKS: list[dict[str, Any]] = [
    {"shape": (2, 16, 8, 8)},
    {"shape": (1, 5, 123, 123)},
    {"shape": (3, 70, 33, 40)},
    {"shape": (2, 1, 1, 1), "kernel": (1, 3, 3)},
    {"shape": (2, 17, 9, 1)},
    {"shape": (2, 24, 17, 19), "stride": (2, 2)},
    {"shape": (2, 24, 17, 19), "stride": (1, 2), "dilation": (2, 1), "padding": (2, 1)},
    {"shape": (2, 24, 17, 19), "padding_mode": "circular", "topology": "circular"},
    {"shape": (2, 24, 17, 19), "padding_mode": "reflect", "topology": "replicate"},
    {"shape": (2, 48, 17, 19), "volumes": (2, 3)},
    {"shape": (2, 24, 17, 19), "kernel": (5, 3, 3)},
    {"shape": (2, 24, 17, 19), "kernel": (3, 1, 1), "padding": (0, 0)},
]


def relative_error(a: Tensor, b: Tensor) -> float:
    difference = (a.double().cpu() - b.double().cpu()).norm().item()
    return difference / max(b.double().norm().item(), 1e-30)


def check() -> list[dict[str, Any]]:
    """Output and gradients of every check, type and layout against the definition in float64 on the processor."""
    rows = []
    for case, dtype, layout in itertools.product(CHECKS, DTYPES, LAYOUTS):
        options = {"padding": (1, 1), **case}
        shape, (p, q) = options.pop("shape"), options.pop("volumes", (1, 1))
        kernel = options.pop("kernel", (3, 3, 3))
        u = torch.randn(shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])
        weight, bias = torch.randn(q, p, *kernel).to(dtype), torch.randn(q).to(dtype)
        leaves = [x.detach().cuda().requires_grad_() for x in (u, weight, bias)]
        exact = [x.detach().double().requires_grad_() for x in (u, weight, bias)]
        output, wanted = deep_prism(*leaves, **options), reference.deep_prism(*exact, **options)
        grad = torch.randn_like(wanted).to(dtype)
        ours = [output, *torch.autograd.grad(output, leaves, grad.cuda())]
        theirs = [wanted, *torch.autograd.grad(wanted, exact, grad.double())]
        errors = [relative_error(a, b) for a, b in zip(ours, theirs, strict=True)]
        # not (a <= b), so that NaN fails
        right = all(error <= LIMITS[dtype] for error in errors)
        rows.append({"case": str(case), "dtype": str(dtype), "layout": layout, "errors": errors, "right": right})
        if not right:
            print("WRONG", rows[-1])
    return rows


def milliseconds(call: Callable[[int], Any], sets: int, repeats: int = 30) -> dict[str, float]:
    """Median and quartiles of a call on input sets in turn; the first calls compile."""
    for i in range(max(5, sets)):
        call(i % sets)
    torch.cuda.synchronize()
    times = []
    for i in range(repeats):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        call(i % sets)
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended))
    low, middle, high = statistics.quantiles(times, n=4)
    return {"median": middle, "low": low, "high": high}


def inputs(shape: tuple[int, ...], dtype: torch.dtype, layout: Any, count: int) -> list[Tensor]:
    one = torch.randn(shape, device="cuda", dtype=dtype)
    if layout is not None and one.dim() == 4:
        one = one.contiguous(memory_format=layout)
    return [one.clone(memory_format=torch.preserve_format) for _ in range(count)]


def time_shape(shape: tuple[int, ...], dtype: torch.dtype, layout: str, seconds_left: float) -> dict[str, Any]:
    """Times of the operator, its gradients, the copy, and cuDNN's two convolutions on one shape."""
    channels, size = shape[1], torch.Size(shape).numel() * dtype.itemsize
    sets = max(2, -(-(256 << 20) // size))
    us, grads = inputs(shape, dtype, LAYOUTS[layout], sets), inputs(shape, dtype, LAYOUTS[layout], sets)
    outs = [torch.empty_like(u) for u in us]
    weight, bias = torch.randn(3, 3, 3, device="cuda", dtype=dtype), torch.zeros(1, device="cuda", dtype=dtype)
    dense = torch.randn(channels, channels, 3, 3, device="cuda", dtype=dtype)
    dense = dense.contiguous(memory_format=LAYOUTS[layout])
    problem = make_problem(shape, (3, 3, 3), 1, Geometry(padding=(1, 1)))
    calls: dict[str, Callable[[int], Any]] = {
        "copy": lambda i: outs[i].copy_(us[i]),
        "forward": lambda i: deep_prism(us[i], weight, bias, padding=(1, 1)),
        "input gradient": lambda i: cuda_run.input_grad(grads[i], weight, problem),
        "weight gradient": lambda i: cuda_run.weight_grad(grads[i], us[i], problem, (3, 3, 3)),
        "dense convolution": lambda i: F.conv2d(us[i], dense, padding=1),
        "listing": lambda i: F.conv3d(us[i][:, None], weight[None, None], bias, padding=1),
    }
    row: dict[str, Any] = {"shape": list(shape), "dtype": str(dtype), "layout": layout, "mib": size / 2**20, "ms": {}}
    with torch.no_grad():
        for name, call in calls.items():
            if name == "listing" and seconds_left < 60:
                continue
            try:
                row["ms"][name] = milliseconds(call, sets, 10 if name == "listing" else 30)
            except RuntimeError as error:
                row["ms"][name] = {"error": str(error).splitlines()[0]}
    medians = {name: times["median"] for name, times in row["ms"].items() if "median" in times}
    # Forward and input gradient read one tensor and write one, as the copy does; the weight gradient reads two.
    for name in ("forward", "input gradient", "weight gradient"):
        row[f"{name} of copy bandwidth"] = medians["copy"] / medians[name]
    for name in ("dense convolution", "listing"):
        if name in medians:
            row[f"{name} times forward"] = medians[name] / medians["forward"]
    return row


def time_tokens(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    channels = shape[-1]
    us = inputs(shape, dtype, None, 4)
    outs = [torch.empty_like(u) for u in us]
    weight = torch.randn(3, device="cuda", dtype=dtype)
    dense = torch.randn(channels, channels, device="cuda", dtype=dtype)
    with torch.no_grad():
        times = {
            "copy": milliseconds(lambda i: outs[i].copy_(us[i]), 4),
            "forward": milliseconds(lambda i: prism(us[i], weight), 4),
            "dense projection": milliseconds(lambda i: F.linear(us[i], dense), 4),
        }
    return {"shape": list(shape), "dtype": str(dtype), "ms": times}


def tune(shape: tuple[int, ...] = (16, 256, 64, 64)) -> list[dict[str, Any]]:
    """Times of the kernels cut in other ways: what `STENCIL` and `CORRELATION` in `kernels.cuda.run` should be."""
    problem = make_problem(shape, (3, 3, 3), 1, Geometry(padding=(1, 1)))
    rows = []
    for dtype, layout in itertools.product(DTYPES[:2], LAYOUTS):
        us, grads = (inputs(shape, dtype, LAYOUTS[layout], 4) for _ in range(2))
        weight = torch.randn(3, 3, 3, device="cuda", dtype=dtype)
        jobs: dict[str, tuple[str, Callable[[int], Any]]] = {
            "stencil": ("STENCIL", lambda i, g=grads, w=weight: cuda_run.input_grad(g[i], w, problem)),
            "correlation": (
                "CORRELATION",
                lambda i, g=grads, u=us: cuda_run.weight_grad(g[i], u[i], problem, (3, 3, 3)),
            ),
        }
        for job, (name, call) in jobs.items():
            pixels = (256, 512, 1024) if job == "stencil" else (64, 128, 256)
            default = getattr(cuda_run, name)
            for blocks in itertools.product(pixels, (8, 16, 32, 64), (2, 4, 8)):
                setattr(cuda_run, name, cuda_run.Blocks(*blocks))
                rows.append(
                    {
                        "job": job,
                        "dtype": str(dtype),
                        "layout": layout,
                        "pixels, depth, warps": blocks,
                        **milliseconds(call, 4, 15),
                    }
                )
            setattr(cuda_run, name, default)
            best = min((r for r in rows if r["job"] == job), key=lambda r: r["median"])
            print(job, dtype, layout, "best so far", best["pixels, depth, warps"], f"{best['median']:.4f} ms")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "operator-gpu.json")
    parser.add_argument("--tune", action="store_true", help="also time other block sizes")
    parser.add_argument("--seconds", type=float, default=150, help="leave out the slowest when time runs short")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 2
    begun = time.perf_counter()
    torch.manual_seed(0)
    report: dict[str, Any] = {
        "machine": {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "engines": engines_report()},
        "checks": check(),
        "rows": [],
        "tokens": [],
    }
    wrong = [row for row in report["checks"] if not row["right"]]
    print(f"{len(report['checks'])} checks, {len(wrong)} wrong, {time.perf_counter() - begun:.0f} s")
    if arguments.tune:
        report["tuning"] = tune()
    for dtype, layout, shape in itertools.product(DTYPES[:2], LAYOUTS, SHAPES):
        left = arguments.seconds - (time.perf_counter() - begun)
        if left < 20:
            break
        row = time_shape(shape, dtype, layout, left)
        report["rows"].append(row)
        shares = "  ".join(f"{k} {v:.2f}" for k, v in row.items() if isinstance(v, float) and k != "mib")
        print(f"{'x'.join(map(str, shape)):>18} {dtype!s:>14} {layout:>13}  {shares}", flush=True)
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    report["tokens"] = [time_tokens(shape, dtype) for shape in TOKENS for dtype in DTYPES[:2]]
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
