"""Where the benchmarks keep what they measured, and the pictures that pages show."""

from __future__ import annotations

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
SINGLE = ROOT / "benchmarks" / "results" / "single-image-cpu.json"


def samples_picture(task: str, name: str, seed: int) -> Path:
    """Where samples of a row of `diffusion.py` are shown."""
    return IMAGES / f"{task}-{name.replace(',', '').replace(' ', '-')}-{seed}.png"
