"""The operator on this machine's processor: ours, the paper's listing and the dense convolution, as ratios.

    python benchmarks/operator.py [--avx2]

prints a table and writes benchmarks/results/operator-cpu.json; with --avx2 all compute as on a processor with AVX2 and
nothing later, on large maps, and operator-avx2-cpu.json is written. Competitors take turns, so that a load from
elsewhere slows all of them; a ratio is the median of the rounds' ratios, with the quartiles beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import places
import torch
import torch.nn.functional as F
from first_use import first_use
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prismify.kernels import deep_prism, engines_report, prism  # noqa: E402
from prismify.kernels.cpu.simd import multiply_tile, splat_tile, store_tile  # noqa: E402
from prismify.kernels.cpu.support import vector_bytes  # noqa: E402
from prismify.kernels.cpu.vectors import make_spec  # noqa: E402
from prismify.kernels.problem import Geometry  # noqa: E402
from prismify.kernels.torch import plain  # noqa: E402
from tests.older_processor import environment  # noqa: E402

LARGE = [(8, 256, 32, 32), (4, 256, 64, 64), (1, 256, 128, 128)]
OTHERS = [(8, 64, 32, 32), (1, 64, 64, 64), (8, 512, 16, 16), (8, 128, 64, 64), (1, 64, 256, 256)]
SMALL = [(1, 32, 8, 8), (8, 32, 8, 8), (1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 8, 8), (8, 256, 8, 8), (1, 256, 16, 16)]
TOKENS = [(8, 1024, 256), (1, 256, 512), (2, 4096, 320)]
GEOMETRY = Geometry(padding=(1, 1))


_LANES = vector_bytes() // 4
#: Sums that are added to in turn, so that none waits for its last one; they and what is added fit the registers.
_SUMS = 8


@numba.njit(nogil=True)
def _multiply_add(numbers: int, rounds: int) -> None:
    spec = make_spec("float32", 3, 1, _SUMS, _LANES, "plain")
    sums = splat_tile(numbers, 0, spec)
    for k in range(rounds):  # from changing places, or a compiler could add once for all rounds
        sums = multiply_tile(sums, numbers + 64 * (k & 3), 64, numbers + 4 * (k & 3), 4, spec)
    # Each to its own place, or what is written over need not be computed; and behind what is read.
    store_tile(numbers + 2048, 4 * _LANES, sums, spec)


def multiply_add_peak(threads: int) -> float:
    """Multiply-adds a second in float32: sums stay in registers, what is added in the first-level cache."""
    arrays = [np.full(1024, 1e-3, np.float32) for _ in range(threads)]
    places_of = [array.ctypes.data for array in arrays]
    rounds = 400_000
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_multiply_add, places_of, [10] * threads))
        best = 0.0
        for _ in range(7):
            begun = time.perf_counter()
            list(pool.map(_multiply_add, places_of, [rounds] * threads))
            best = max(best, threads * 3 * _SUMS * _LANES * rounds / (time.perf_counter() - begun))
    return best


def take_turns(competitors: dict[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds a call of each competitor, in turn, for `rounds` rounds or at least three in `seconds`."""
    times: dict[str, list[float]] = {name: [] for name in competitors}
    repeats = {}
    for name, call in competitors.items():
        for _ in range(3):
            call()
        begun = time.perf_counter()
        call()
        # Short calls are timed by the dozen, as a training loop makes them.
        repeats[name] = max(1, min(200, int(5e-3 / (time.perf_counter() - begun + 1e-9))))
    begun = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - begun > seconds:
            break
        for name, call in competitors.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name] * 1e3)
    return times


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Median and quartiles of the times, and of the ratios to `ours` round by round."""

    def spread(values: list[float]) -> dict[str, float]:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return {"median": round(middle, 5), "low": round(low, 5), "high": round(high, 5)}

    ours = times["ours"]
    ratios = {
        name: spread([t / o for t, o in zip(values, ours, strict=True)])
        for name, values in times.items()
        if name != "ours"
    }
    return {"rounds": len(ours), "ms": {name: spread(values) for name, values in times.items()}, "times_ours": ratios}


def convolutions(shape: tuple[int, ...], backward: bool, dtype: torch.dtype, layout: Any) -> dict[str, Any]:
    channels = shape[1]
    u = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    dense = nn.Conv2d(channels, channels, 3, padding=1).to(dtype)
    listing = nn.Conv3d(1, 1, 3, padding=1).to(dtype)
    weight, bias = (p.detach().clone().requires_grad_() for p in (listing.weight[0, 0], listing.bias))
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ours": lambda x: deep_prism(x, weight, bias, padding=(1, 1)),
        "dense": dense,
        "listing": lambda x: listing(x[:, None])[:, 0],
        "plain torch": lambda x: plain.deep_prism(x, weight, bias, GEOMETRY),
    }
    return _competitors(calls, u, backward)


def projections(shape: tuple[int, ...], backward: bool) -> dict[str, Any]:
    channels = shape[-1]
    u = torch.randn(shape)
    dense = nn.Linear(channels, channels)
    weight, bias = torch.randn(3, requires_grad=True), torch.zeros(1, requires_grad=True)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ours": lambda x: prism(x, weight, bias),
        "dense": dense,
        "listing": lambda x: F.conv1d(x.reshape(-1, 1, channels), weight[None, None], bias, padding=1).view(shape),
    }
    return _competitors(calls, u, backward)


def _competitors(calls: dict[str, Any], u: torch.Tensor, backward: bool) -> dict[str, Any]:
    if not backward:

        def forward(call: Any) -> Any:
            return lambda: call(u)

        copy = torch.empty_like(u)
        return {**{name: forward(call) for name, call in calls.items()}, "copy": lambda: copy.copy_(u)}
    u.requires_grad_()
    grad = torch.randn_like(u)

    def both(call: Any) -> Any:
        def run() -> None:
            u.grad = None
            call(u).backward(grad)

        return run

    return {name: both(call) for name, call in calls.items()}


def measure(shape: tuple[int, ...], backward: bool, peak: float, seconds: float, **options: Any) -> dict[str, Any]:
    """One row: a shape forward, or forward and backward."""
    torch.manual_seed(0)
    dtype, layout = options.get("dtype", torch.float32), options.get("layout", torch.contiguous_format)
    tokens = len(shape) == 3
    with torch.set_grad_enabled(backward):
        competitors = projections(shape, backward) if tokens else convolutions(shape, backward, dtype, layout)
        row = {
            "shape": list(shape),
            "pass": "forward and backward" if backward else "forward",
            "dtype": str(dtype).removeprefix("torch."),
            "channels_last": layout == torch.channels_last,
            **summary(take_turns(competitors, 15, seconds)),
        }
    if not backward:
        ours = row["ms"]["ours"]["median"]
        arithmetic = (3 if tokens else 27) * np.prod(shape) / peak * 1e3
        limits = {"copy": row["ms"]["copy"]["median"], "multiply-add": float(arithmetic)}
        row["binds"] = max(limits, key=limits.__getitem__)
        row["share_of_limit"] = round(max(limits.values()) / ours, 3)
    return row


def first_call_seconds() -> dict[str, float]:
    """What the first call's kernels cost, and the first training step's: compiled, and found on disk by others."""
    with tempfile.TemporaryDirectory() as folder:
        compiled, found = (first_use(ROOT, folder) for _ in range(2))
    return {**compiled, "cached": found["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="a row takes about this long")
    parser.add_argument("--only", choices=["large", "other", "small", "tokens"], help="one group of shapes")
    parser.add_argument("--avx2", action="store_true", help="as on a processor with AVX2 and nothing later")
    parser.add_argument("--output", type=Path, help="where results go, in place of benchmarks/results")
    arguments = parser.parse_args()
    if arguments.avx2 and torch.backends.cpu.get_cpu_capability() != "AVX2":
        os.execve(sys.executable, [sys.executable, *sys.argv], environment())
    if arguments.avx2:
        arguments.only = "large"
    output = arguments.output or (places.OPERATOR_AVX2 if arguments.avx2 else places.OPERATOR)
    threads = torch.get_num_threads()
    peak = multiply_add_peak(threads)
    groups = {"large": LARGE, "other": OTHERS, "small": SMALL, "tokens": TOKENS}
    report: dict[str, Any] = {
        "date": places.today(),
        "seed": 0,
        "machine": {
            "processor": places.processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": threads,
            "torch": torch.__version__,
            "engine": engines_report()[0]["details"],
            "multiply_adds_per_second": round(peak),
        },
        "rows": [],
    }
    if arguments.only is None:
        report["first_call_seconds"] = first_call_seconds()
    print(f"{threads} threads, {peak / 1e9:.0f} G multiply-adds/s; first call {report.get('first_call_seconds')} s")
    print(f"{'shape':>20} {'pass':>9} {'ours ms':>9} {'dense':>7} {'listing':>8} {'of limit':>9}   (times ours)")
    rows = [
        (shape, backward, {})
        for name, shapes in groups.items()
        if arguments.only in (None, name)
        for shape in shapes
        for backward in (False, True)
    ]
    if arguments.only is None:
        rows += [(LARGE[0], b, {"layout": torch.channels_last}) for b in (False, True)]
        rows += [(LARGE[0], b, {"dtype": torch.bfloat16}) for b in (False, True)]
    for shape, backward, options in rows:
        row = measure(shape, backward, peak, arguments.seconds, **options)
        report["rows"].append(row)
        notes = f"{row['dtype'] if 'dtype' in options else ''} {'channels last' if 'layout' in options else ''}"
        limit = f"{row['share_of_limit']:.0%} {row['binds']}" if "binds" in row else ""
        ratios = row["times_ours"]
        print(
            f"{'x'.join(map(str, shape)):>20} {'fwd+bwd' if backward else 'fwd':>9} {row['ms']['ours']['median']:9.3f} "
            f"{ratios['dense']['median']:7.1f} {ratios['listing']['median']:8.1f} {limit:>16} {notes.strip()}"
        )
    output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
