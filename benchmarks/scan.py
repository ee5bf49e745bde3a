"""Time and memory of scanning well-known models from their configs, each in a fresh process.

    python benchmarks/scan.py

writes benchmarks/results/scan.json and docs/scan.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "examples" / "configs"
MODELS = {
    "sd15-unet": "Stable Diffusion 1.5 UNet",
    "sd-vae": "Stable Diffusion VAE",
    "sdxl-unet": "SDXL UNet",
    "dit-xl-2": "DiT-XL/2",
    "sd3-medium": "Stable Diffusion 3 medium",
    "flux-dev": "FLUX.1-dev",
}
POLICIES = {
    "paper": [],
    "volumes": ["--policy", "volumes"],
    "volumes, feed-forward": ["--policy", "volumes", "--feed-forward"],
}


def scan(name: str, options: list[str]) -> tuple[dict, float, float]:
    """(report, seconds, peak resident MiB) of one `prismify scan --json`."""
    command = [str(Path(sys.executable).parent / "prismify"), "scan", str(CONFIGS / name), "--json", *options]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return json.loads(output), time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    import torch

    rows = []
    for name, title in MODELS.items():
        ratios, seconds, memory = {}, [], []
        for policy, options in POLICIES.items():
            report, elapsed, peak = scan(name, options)
            ratios[policy] = report["parameters"]
            seconds.append(elapsed)
            memory.append(peak)
        rows.append(
            {"model": title, "config": name, "parameters": ratios, "seconds": max(seconds), "peak_mib": max(memory)}
        )
        print(f"{title}: {max(seconds):.1f} s, {max(memory):.0f} MiB", flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    machine += f", Python {platform.python_version()}, torch {torch.__version__}"
    (ROOT / "benchmarks" / "results" / "scan.json").write_text(
        json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n"
    )
    lines = [
        "# Scanning well-known models",
        "",
        "Written by `python benchmarks/scan.py`. Each row is `prismify scan examples/configs/NAME` in fresh processes,",
        "one a policy; time is from start to end, imports included, and time and memory are the largest of the three.",
        f"Machine: {machine}.",
        "",
        "| model | parameters | " + " | ".join(POLICIES) + " | seconds | peak memory |",
        "|---|---:|" + "---:|" * len(POLICIES) + "---:|---:|",
    ]
    for row in rows:
        before = row["parameters"]["paper"]["before"]
        cells = [f"{row['parameters'][p]['after']:,} ({row['parameters'][p]['ratio']:.3g}×)" for p in POLICIES]
        lines.append(
            f"| {row['model']} | {before:,} | "
            + " | ".join(cells)
            + f" | {row['seconds']:.1f} | {row['peak_mib']:.0f} MiB |"
        )
    (ROOT / "docs" / "scan.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
