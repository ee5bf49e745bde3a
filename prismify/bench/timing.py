"""Time calls against each other, follow the memory they take, and measure what the machine can do.

Candidates are timed in turn, round after round, so that a noisy machine is noisy for all of them alike.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_ROUNDS = 5
_COPY_BYTES = 1 << 28
_MATMUL = 2048


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over several rounds."""

    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)

    def to_dict(self) -> dict[str, float]:
        """`median_ms`, `fastest_ms` and `slowest_ms`."""
        return {"median_ms": self.median_ms, "fastest_ms": min(self.rounds_ms), "slowest_ms": max(self.rounds_ms)}

    def times_faster(self, other: Timing) -> float:
        """How many times faster this is than `other` in the same rounds: the median of the rounds' ratios."""
        return statistics.median(b / a for a, b in zip(self.rounds_ms, other.rounds_ms, strict=True))


@dataclass(frozen=True)
class Machine:
    """What the machine reaches: a copy's bytes a second (read and write), a matrix product's flops a second."""

    device: str
    threads: int
    copy_bytes_per_s: float
    matmul_flops_per_s: float


def compare(
    candidates: Mapping[str, Callable[[], Any]], device: torch.device, seconds: float = 1.0
) -> dict[str, Timing]:
    """Time each candidate over the same rounds, about `seconds` for each in all.

    Args:
        candidates: name -> a call without arguments; each is warmed up first.
    """
    repeats = {}
    for name, call in candidates.items():
        _time(call, 1, device)  # compilation, caches
        once = _time(call, 1, device)
        repeats[name] = max(1, min(1000, int(seconds / _ROUNDS / max(once, 1e-6))))
    rounds = [{n: _time(c, repeats[n], device) for n, c in candidates.items()} for _ in range(_ROUNDS)]
    return {name: Timing(tuple(1000 * r[name] for r in rounds)) for name in candidates}


def side_by_side(
    candidates: Mapping[str, Callable[[], Any]], base: str, device: torch.device, seconds: float = 1.0
) -> dict[str, dict[str, float]]:
    """Time candidates against one of them, as plain data.

    Returns:
        name -> its timing, how many times faster than `base` it is (`times_` and the base's name, the median of the
        rounds' ratios), and the peak of tensor memory in bytes (`peak_bytes`).
    """
    timings = compare(candidates, device, seconds)
    return {
        name: {
            **timing.to_dict(),
            f"times_{base}": timing.times_faster(timings[base]),
            "peak_bytes": peak_bytes(candidates[name], device),
        }
        for name, timing in timings.items()
    }


def measure_machine(device: torch.device) -> Machine:
    """Copy bandwidth over 256 MiB and the rate of a 2048-square product, both in float32."""
    source = torch.ones(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    a = torch.ones(_MATMUL, _MATMUL, device=device)
    b = torch.ones_like(a)
    out = torch.empty_like(a)
    calls = {"copy": lambda: target.copy_(source), "matmul": lambda: torch.mm(a, b, out=out)}
    found = compare(calls, device)
    return Machine(
        device_name(device),
        torch.get_num_threads(),
        2 * _COPY_BYTES / min(found["copy"].rounds_ms) * 1e3,
        2 * _MATMUL**3 / min(found["matmul"].rounds_ms) * 1e3,
    )


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most memory that tensors made by one call hold at once, in bytes; weights and inputs not counted.

    Under a dispatch mode a compiled model would run as it is written, so the CPU's allocations are profiled.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - int(before)
    # Kineto greets on stderr, and misses a GPU aloud.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: int(e.start_ns())))
    return max(held, default=0)


def _time(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Seconds a call, over `repeats` calls."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / repeats


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
