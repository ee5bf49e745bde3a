"""Measure a layer or a model against what it replaces: time, memory, and shares of what the machine can do."""

from .ahead import compile_ahead
from .models import bench_layers, bench_models, latency
from .shapes import bench_shape
from .timing import Machine, Timing, compare, measure_machine, peak_bytes

__all__ = [
    "Machine",
    "Timing",
    "bench_layers",
    "bench_models",
    "bench_shape",
    "compare",
    "compile_ahead",
    "latency",
    "measure_machine",
    "peak_bytes",
]
