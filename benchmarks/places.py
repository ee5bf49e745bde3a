"""Where the benchmarks keep what they measured, and the pictures that pages show."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
GAP = ROOT / "benchmarks" / "results" / "gap-cpu.json"
DISTILLED = ROOT / "benchmarks" / "results" / "distil-cpu.json"
DIFFUSION = ROOT / "benchmarks" / "results" / "diffusion-cpu.json"
TAUGHT = ROOT / "benchmarks" / "results" / "teach-denoiser-cpu.json"
FRONTIER = ROOT / "benchmarks" / "results" / "frontier-cpu.json"
PREVIEW = ROOT / "benchmarks" / "results" / "preview-cpu.json"
SETTINGS = ROOT / "benchmarks" / "results" / "mnist-settings-cpu.json"
TABLE_2 = ROOT / "benchmarks" / "results" / "paper-table2.json"
POINTS = ROOT / "benchmarks" / "results" / "paper-points-cpu.json"
RATES = ROOT / "benchmarks" / "results" / "paper-rates-cpu.json"
ADVERSARIAL = ROOT / "benchmarks" / "results" / "adversarial-cpu.json"
ADVERSARIAL_PICTURE = IMAGES / "adversarial.png"
SHARDS = ROOT / "benchmarks" / "results" / "shards-cpu.json"
OPERATOR = ROOT / "benchmarks" / "results" / "operator-cpu.json"
OPERATOR_AVX2 = ROOT / "benchmarks" / "results" / "operator-avx2-cpu.json"
SINCE = ROOT / "benchmarks" / "results" / "since-cpu.json"
DENOISERS_GPU = ROOT / "benchmarks" / "results" / "denoisers-gpu.json"
DENOISERS = ROOT / "benchmarks" / "results" / "denoisers-cpu.json"
ONNX = ROOT / "benchmarks" / "results" / "onnx-cpu.json"
FIGURE_1 = IMAGES / "figure1.png"
SINGLE = ROOT / "benchmarks" / "results" / "single-image-cpu.json"


def today() -> str:
    """The day of a measurement, as results keep it."""
    return datetime.date.today().isoformat()


def slug(name: str) -> str:
    """A name as part of a file's."""
    return name.replace(",", "").replace("/", "-").replace(" ", "-").lstrip("-")


def taught_picture(name: str) -> Path:
    """Where samples of a row of `teach_denoiser.py` are shown."""
    return IMAGES / f"taught-{slug(name)}.png"


def samples_picture(task: str, name: str, seed: int) -> Path:
    """Where samples of a row of `diffusion.py` are shown."""
    return IMAGES / f"{task}-{slug(name)}-{seed}.png"


def processor() -> str:
    """The instruction set and, in LLVM's words, the processor: what a figure of milliseconds belongs to."""
    from llvmlite import binding

    return f"{platform.machine()} ({binding.get_host_cpu_name()})"
