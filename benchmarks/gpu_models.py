"""Whole denoisers on a GPU: dense, by torch.compile, converted, converted and compiled, and fused.

    python benchmarks/gpu_models.py [NAME ...] [--batch 8] [--seconds 130] [--device cuda] [--output FILE]

checks that compiled and fused models answer as the converted one does, times forward and backward in bfloat16 in turns
within one run, and writes benchmarks/results/denoisers-gpu.json row by row. What no time is left for is left out, and
said. `--device cpu` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import places
import torch
from denoisers import DENOISERS, POLICIES, first, passes
from gpu import relative_error
from torch import Tensor, nn

import prismify
from prismify.bench.timing import device_name, side_by_side
from prismify.facts import parameter_count

#: From the most to the least that a GPU gains; the last ones are left out when time is up.
ORDER = ["ldm-unet, C = 256", "SD 1.5's UNet", "SinDDM", "DiT-XL/2", "MNIST DDPM"]
#: How far answers in bfloat16 may lie apart, as a share of their norm.
APART = 3e-2


def moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def variants(name: str, batch: int, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, nn.Module], Any]:
    """The models that take turns, and what they are called with."""
    torch.manual_seed(0)
    one = DENOISERS[name]
    made = {"dense": one.make().eval()}
    made["converted"] = prismify.convert(made["dense"], kwargs=one.inputs(1), policy=POLICIES["volumes"])
    try:
        made["fused"] = prismify.fuse(copy.deepcopy(made["converted"]))
    except prismify.PrismifyError as error:
        print(f"{name} is not fused: {error}", flush=True)
    made = {key: model.to(device, dtype).eval() for key, model in made.items()}
    inputs = {key: moved(value, device, dtype) for key, value in one.inputs(batch).items()}
    return made, inputs


def measure(name: str, batch: int, device: torch.device, ends: float) -> dict[str, Any]:
    """A row: what each variant takes, and how far its answers lie from the converted model's."""
    models, inputs = variants(name, batch, device, torch.bfloat16)
    for key in ("dense", "converted"):
        if time.monotonic() < ends:
            models[f"{key}, compiled"] = torch.compile(models[key])
    row: dict[str, Any] = {
        "name": name, "batch": batch, "policy": "volumes", "dtype": "bfloat16", "seed": 0, "date": places.today(),
        "machine": device_name(device), "torch": torch.__version__,
        "parameters": {key: parameter_count(models[key]) for key in ("dense", "converted")},
    }  # fmt: skip
    with torch.no_grad():
        wanted = first(models["converted"](**inputs))
        answers = {key: first(models[key](**inputs)) for key in models if key not in ("dense", "dense, compiled")}
    row["apart"] = {key: relative_error(answer, wanted) for key, answer in answers.items()}
    row["right"] = all(value <= APART for value in row["apart"].values())  # NaN is not
    for title in ("forward", "forward and backward"):
        if time.monotonic() > ends:
            row[title] = "no time was left"
            continue
        calls = {key: passes(model, inputs)[title] for key, model in models.items()}
        row[title] = side_by_side(calls, "dense", device, 0.5)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=ORDER, choices=ORDER, metavar="NAME")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=130, help="begin nothing after so long")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=places.DENOISERS_GPU)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 2
    ends, device, rows = time.monotonic() + given.seconds, torch.device(given.device), []
    for name in given.names:
        if time.monotonic() > ends:
            print(f"{name}: no time was left", flush=True)
            continue
        row = measure(name, given.batch, device, ends)
        rows.append(row)
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
        for title in ("forward", "forward and backward"):
            if isinstance(row[title], dict):
                told = (f"{key} {v['median_ms']:.3g} ms ({v['times_dense']:.2f}x)" for key, v in row[title].items())
                print(f"{name}, batch {given.batch}, {title}: {', '.join(told)}", flush=True)
        if not row["right"]:
            print(f"WRONG {name}: {row['apart']}", flush=True)
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
