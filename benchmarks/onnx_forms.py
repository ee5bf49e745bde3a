"""The operator and whole models in ONNX Runtime: every form beside the dense layer's file, on the CPU.

    python benchmarks/onnx_forms.py [--threads 2] [--seconds 2]

writes benchmarks/results/onnx-cpu.json and docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import performance
import places
import torch
from torch import nn

import prismify
from prismify.export import Entry, Written, largest_difference, times, write_onnx
from prismify.graph import ExampleInputs
from prismify.kernels.torch.forms import FORMS
from prismify.layers import DeepPrism

SHAPES = [(1, 256, 32, 32), (8, 256, 32, 32), (1, 256, 128, 128), (1, 64, 64, 64), (1, 64, 16, 16)]
#: Name -> widths of the paper's autoencoder, side of its images.
MODELS = {"AutoencoderKL, C = 256": (256, 32), "AutoencoderKL, C = 64": (64, 32)}


def files(
    folder: Path, layer: nn.Module, dense: nn.Module, shape: tuple[int, ...], forms: list[str]
) -> dict[str, Written]:
    """The dense module's file and the other one's in each form."""
    inputs = ExampleInputs((torch.randn(shape),))
    found = {"dense layer": write_onnx(Entry(dense, "forward", inputs), folder / "original.onnx")}
    for form in forms:
        entry = Entry(layer, "forward", inputs)
        found[form] = write_onnx(entry, folder / f"{form}.onnx", form=form)  # type: ignore[arg-type]
    return found


def measured(written: dict[str, Written], threads: int, seconds: float) -> dict[str, Any]:
    """By form: milliseconds, how many times faster than the dense file, bytes, and the distance from the model."""
    timings = times(written, threads, seconds)
    return {
        name: {
            **timings[name].to_dict(),
            "times_dense": timings[name].times_faster(timings["dense layer"]),
            "bytes": one.size_bytes,
            "difference": max(largest_difference(one).values()),
            "written": one.forms,
        }
        for name, one in written.items()
    }


def autoencoder(width: int) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(width,) * 3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=3,
        layers_per_block=2,
        sample_size=32,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in SHAPES:
        width = shape[1]
        layers = DeepPrism(width, padding=1), nn.Conv2d(width, width, 3, padding=1)
        with tempfile.TemporaryDirectory() as folder:
            found = measured(files(Path(folder), *layers, shape, list(FORMS)), arguments.threads, arguments.seconds)
        rows.append({"name": "×".join(map(str, shape)), "forms": found})
        print(rows[-1]["name"], {name: f"{row['times_dense']:.2f}x" for name, row in found.items()}, flush=True)
    for name, (width, side) in MODELS.items():
        dense = autoencoder(width)
        with tempfile.TemporaryDirectory() as folder:
            written = files(Path(folder), prismify.convert(dense), dense, (1, 3, side, side), ["auto"])
            found = measured(written, arguments.threads, arguments.seconds)
        rows.append({"name": name, "forms": found})
        print(name, {form: f"{row['times_dense']:.2f}x {row['bytes']:,}" for form, row in found.items()}, flush=True)
    import onnxruntime

    machine = f"{places.processor()}, {arguments.threads} threads, torch {torch.__version__}"
    report = {"date": places.today(), "machine": f"{machine}, onnxruntime {onnxruntime.__version__}", "rows": rows}
    places.ONNX.write_text(json.dumps({"seed": 0, **report}, indent=1) + "\n")
    performance.write_page()


if __name__ == "__main__":
    main()
