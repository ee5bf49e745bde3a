"""Measure a layer or a model against what it replaces: time, memory, and shares of what the machine can do."""

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
    "latency",
    "measure_machine",
    "peak_bytes",
]
