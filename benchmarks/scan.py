"""Time and memory of scanning well-known models, each in a fresh process: from their configs, and the zoo's full sizes.

    python benchmarks/scan.py          both tables
    python benchmarks/scan.py --zoo [WORD ...]    the zoo's only, of rows whose name holds a word; others stay

writes benchmarks/results/scan.json and docs/scan.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import places
from command import COMMAND

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CONFIGS = ROOT / "examples" / "configs"
RESULTS = ROOT / "benchmarks" / "results" / "scan.json"
#: What every row of the zoo promises.
MOST_SECONDS, MOST_MIB = 20, 1536
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


def scan(words: list[str]) -> tuple[dict, dict]:
    """The report of one `prismify scan --json`, empty where it failed; and what it took: wall and processor seconds,
    peak resident MiB."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, "scan", *words, "--json"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = {"seconds": time.perf_counter() - begun, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    return {} if status else json.loads(output), took | {"peak_mib": usage.ru_maxrss / 1024}


def scan_configs() -> list[dict]:
    """The configs under examples, once for each policy."""
    rows = []
    for name, title in MODELS.items():
        ratios, costs = {}, []
        for policy, options in POLICIES.items():
            report, took = scan([str(CONFIGS / name), *options])
            ratios[policy] = report["parameters"]
            costs.append(took)
        most = {key: max(took[key] for took in costs) for key in costs[0]}
        rows.append({"model": title, "config": name, "parameters": ratios, **most})
        print(f"{title}: {most['seconds']:.1f} s, {most['peak_mib']:.0f} MiB", flush=True)
    return rows


def scan_zoo(words: list[str]) -> Iterator[dict]:
    """The zoo's architectures at their published size, by policy paper; with words, only those they name."""
    from tests.zoo.table import ROWS

    for row in ROWS:
        if row.full is None or (words and not any(word.lower() in row.name.lower() for word in words)):
            continue
        options = []
        for key, value in row.full.items():
            options += ["--arg", f"{key}={json.dumps(value)}"]
        for name, shape in (row.full_inputs or {}).items():
            kind = ":int" if shape[0] == "int" else ""
            options += ["--input", f"{name}={','.join(str(n) for n in shape if n != 'int')}{kind}"]
        report, took = scan([row.source, *options])
        found = {"model": row.name, "source": row.source, **took}
        if report:
            unknown = sum(layer["role"] == "unknown" for layer in report["layers"])
            found |= {"parameters": report["parameters"], "layers": len(report["layers"]), "unknown": unknown}
            found |= {"replaced": report["replaced"]["layers"], "technique": report["capture"][0]["technique"]}
        cheap = took["cpu_seconds"] < MOST_SECONDS and took["peak_mib"] < MOST_MIB
        within = bool(report) and not found["unknown"] and cheap
        line = f"{row.name}: {took['cpu_seconds']:.1f} s of processor time, {took['peak_mib']:.0f} MiB"
        print(line + ("" if within else "  <-- not as promised"), flush=True)
        yield found | {"within": within}


def main() -> None:
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"  # shapes need no more, and idle threads would count as processor time
    only_zoo, words = "--zoo" in sys.argv, [word for word in sys.argv[1:] if word != "--zoo"]
    kept = json.loads(RESULTS.read_text()) if only_zoo and RESULTS.is_file() else {}
    zoo = {row["model"]: row for row in kept.get("zoo", ())}
    machine = f"{places.processor()}, {os.cpu_count()} CPU cores"
    machine += f", Python {platform.python_version()}, torch {torch.__version__}"
    results = {
        "date": places.today(),
        "machine": machine,
        "rows": kept.get("rows") or scan_configs(),
        "zoo": list(zoo.values()),
    }
    for row in scan_zoo(words):
        zoo[row["model"]] = row
        results["zoo"] = list(zoo.values())
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        (ROOT / "docs" / "scan.md").write_text("\n".join([*page(results), *zoo_page(results)]) + "\n")


def page(results: dict) -> list[str]:
    lines = [
        "# Scanning well-known models",
        "",
        "Written by `python benchmarks/scan.py`. Each row is `prismify scan examples/configs/NAME` in fresh processes,",
        "one a policy; time is from start to end, imports included, and time and memory are the largest of the three.",
        f"Machine: {results['machine']}.",
        "",
        "| model | parameters | " + " | ".join(POLICIES) + " | seconds | peak memory |",
        "|---|---:|" + "---:|" * len(POLICIES) + "---:|---:|",
    ]
    for row in results["rows"]:
        before = row["parameters"]["paper"]["before"]
        cells = [f"{row['parameters'][p]['after']:,} ({row['parameters'][p]['ratio']:.3g}×)" for p in POLICIES]
        lines.append(
            f"| {row['model']} | {before:,} | "
            + " | ".join(cells)
            + f" | {row['seconds']:.1f} | {row['peak_mib']:.0f} MiB |"
        )
    return lines


def zoo_page(results: dict) -> list[str]:
    rows = results["zoo"]
    within = sum(row["within"] for row in rows)
    lines = [
        "",
        "## The zoo at its published sizes",
        "",
        f"{within} of {len(rows)} architectures of [the zoo](zoo.md) are read whole in under {MOST_SECONDS} s and "
        f"{MOST_MIB / 1024:g} GiB.",
        "Policy `paper`, without weights; seconds are processor time, which other work on the machine does not change,",
        "from start to end, imports included.",
        "",
        "| model | parameters | after | ratio | layers | replaced | seconds | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cost = f"{row['cpu_seconds']:.1f} | {row['peak_mib']:.0f} MiB"
        if "parameters" not in row:
            lines.append(f"| {row['model']} | could not be scanned | | | | | {cost} |")
            continue
        before, after = row["parameters"]["before"], row["parameters"]["after"]
        layers = f"{row['layers']}" + (f" ({row['unknown']} unknown)" if row["unknown"] else "")
        counts = f"{before:,} | {after:,} | {before / after:.3g}× | {layers} | {row['replaced']}"
        lines.append(f"| {row['model']} | {counts} | {cost} |")
    return lines


if __name__ == "__main__":
    main()
