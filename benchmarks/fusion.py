"""GroupNorm, SiLU, DeepPrism and residual sum in one against one after the other, on the CPU.

Run: OMP_NUM_THREADS=2 python benchmarks/fusion.py [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import places
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from prismify.kernels import deep_prism, engines_report, norm_act_deep_prism

SHAPES = [(8, 256, 32, 32), (4, 256, 64, 64), (1, 256, 128, 128), (8, 64, 32, 32), (8, 256, 8, 8), (1, 64, 16, 16)]
GROUPS = 32
RESULTS = Path(__file__).parent / "results"


def blocks(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor]]:
    """The two forms, and the tensors whose gradients are asked for."""
    channels = shape[1]
    x, residual = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    weight, bias = torch.randn(3, 3, 3, dtype=dtype), torch.randn(1, dtype=dtype)
    scale, shift = torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)
    leaves = [t.requires_grad_() for t in (x, residual, weight, bias, scale, shift)]

    def unfused() -> Tensor:
        u = F.silu(F.group_norm(x, GROUPS, scale, shift))
        return deep_prism(u, weight, bias, padding=(1, 1)) + residual

    def fused() -> Tensor:
        return norm_act_deep_prism(
            x,
            weight,
            bias,
            num_groups=GROUPS,
            norm_weight=scale,
            norm_bias=shift,
            residual=residual,
            padding=(1, 1),
        )

    def operator() -> Tensor:
        return deep_prism(x, weight, bias, padding=(1, 1))

    return {"unfused": unfused, "fused": fused, "operator alone": operator}, leaves


def measured(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of each call, median and fastest; they take turns, so that a busy moment meets all of them."""
    for call in calls.values():
        for _ in range(3):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"median": statistics.median(values), "fastest": min(values)} for name, values in times.items()}


def saved_bytes(call: Callable[[], Tensor], leaves: list[Tensor]) -> int:
    """What a call keeps for its backward pass besides the arguments and its output."""
    kept: dict[int, int] = {}
    given = {t.untyped_storage().data_ptr() for t in leaves}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = call()
    kept.pop(output.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def measure(shape: tuple[int, ...], dtype: torch.dtype, seconds: float) -> dict[str, object]:
    """One row of the table."""
    forms, leaves = blocks(shape, dtype)
    cotangent = torch.randn(shape, dtype=dtype)

    def inference(call: Callable[[], Tensor]) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                call()

        return run

    def training(call: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(), leaves, cotangent, allow_unused=True)

    row: dict[str, object] = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
    for job, wrap in (("forward", inference), ("forward_backward", training)):
        row[f"{job}_ms"] = measured({name: wrap(call) for name, call in forms.items()}, seconds)
    row["saved_bytes"] = {name: saved_bytes(forms[name], leaves) for name in ("unfused", "fused")}
    return row


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "fusion-cpu.json")
    parser.add_argument("--seconds", type=float, default=3.0, help="a measurement's length")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64", "bfloat16"])
    arguments = parser.parse_args()
    rows = []
    for name in arguments.dtypes:
        for shape in SHAPES:
            row = measure(shape, getattr(torch, name), arguments.seconds)
            rows.append(row)
            line = f"{name:9} {'x'.join(map(str, shape)):14}"
            for job in ("forward_ms", "forward_backward_ms"):
                for kind in ("median", "fastest"):
                    apart, one = (row[job][form][kind] for form in ("unfused", "fused"))  # type: ignore[index]
                    line += f"  {kind} {apart:.2f} -> {one:.2f} ({apart / one:.2f}x)"
            kept = row["saved_bytes"]
            print(f"{line}  {kept['unfused'] / 2**20:.1f} -> {kept['fused'] / 2**20:.2f} MiB", flush=True)  # type: ignore[index]
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "engine": engines_report()[0]}
    arguments.output.write_text(json.dumps({"date": places.today(), "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
