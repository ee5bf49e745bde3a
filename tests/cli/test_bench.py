"""`prismify bench` and `prismify doctor` on the terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prismify import bench
from prismify.kernels.cpu.support import vector_bytes
from prismify.kernels.engines import ENGINES
from prismify.scanning import slower

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]


def test_a_shape(run: Run) -> None:
    ran = run("bench", "1,8,6,6", "--seconds", "0.01", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["forward"]["dense"]["times_dense"] == 1
    shown = run("bench", "1x8x6x6", "--seconds", "0.01")
    assert "times dense" in " ".join(shown.out.split())


def test_a_model(run: Run) -> None:
    config = Path(__file__).parents[2] / "examples" / "configs" / "ldm-autoencoder-256"
    ran = run("bench", config, "--input", "1,3,8,8", "--seconds", "0.01", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["model"] == "AutoencoderKL"
    assert ran.json["forward and backward"]["converted"]["peak_bytes"] > 0


def _small_vae(folder: Path) -> Path:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, sample_size=16)
    vae.save_pretrained(folder)
    return folder


def test_a_converted_folder_against_its_original(run: Run, tmp_path: Path) -> None:
    source, folder = _small_vae(tmp_path / "vae"), tmp_path / "converted"
    assert run("convert", source, "-o", folder).code == 0
    ran = run("bench", folder, "--seconds", "0.01", "--json")
    assert ran.code == 0, ran.err
    assert list(ran.json["forward"]) == ["original", "converted", "fused"]
    assert ran.json["method"] == "forward"
    decoded = run("bench", folder, "--method", "decode", "--input", "1,4,8,8", "--seconds", "0.01", "--json")
    assert decoded.json["inputs"] == "z 1×4×8×8"


def test_a_folder_that_holds_only_a_skeleton_finds_the_file_it_came_from(run: Run, tmp_path: Path) -> None:
    model, folder = tmp_path / "model.pt", tmp_path / "converted"
    torch.save(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3)), model)
    assert run("convert", model, "-o", folder, "--input", "1,3,16,16").code == 0
    arguments = ("--input", "1,3,16,16", "--seconds", "0.01", "--json")
    assert run("bench", folder, *arguments).json["model"] == "Sequential"
    moved = model.rename(tmp_path / "moved.pt")
    assert "name it with --original SOURCE" in run("bench", folder, *arguments).line
    assert run("bench", folder, "--original", moved, *arguments).code == 0
    assert "--original belongs to a folder" in run("bench", moved, "--original", moved, *arguments).line


def test_convert_measures_before_and_after(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "latency", partial(bench.latency, seconds=0.01))
    source, folder = _small_vae(tmp_path / "vae"), tmp_path / "converted"
    ran = run("convert", source, "-o", folder, "--bench", "--json")
    assert ran.code == 0, ran.err
    latency = ran.json["latency"]
    assert latency["forward"]["converted"]["median_ms"] > 0
    names = [name for row in latency["layers"] for name in row["names"]]
    assert sorted(names) == sorted(d["name"] for d in ran.json["layers"] if d["decision"] == "replace")
    assert "| forward and backward |" in (folder / "report.md").read_text()
    shown = run("report", folder)
    assert "times original" in " ".join(shown.out.split())
    assert "latency" not in run("scan", source, "--json").json


def test_what_became_slower_is_said_in_words() -> None:
    row = {"converted": {"times_original": 0.5}}
    layer = {"names": ["a", "b"], "before_ms": 1.0, "after_ms": 2.0, "faster": 0.5, "input_shape": [1, 8, 4, 4]}
    fine = {**layer, "names": ["c"], "faster": 1.5}
    lines = slower({"forward": row, "forward and backward": row, "layers": [layer, fine]})
    assert lines[0] == "The converted model is slower here: a forward pass takes 2.00 times as long."
    assert len(lines) == 3
    assert lines[2].startswith("a and 1 more: slower here, 1 → 2 ms at 1×8×4×4")


def test_what_cannot_be_measured_is_said_so(run: Run) -> None:
    assert run("bench", "1,8,6", "--json").line.startswith("bench needs a shape (B, C, H, W)")
    assert run("bench", "1,8,6,6", "--device", "toaster").code == 2
    assert run("bench", "1,8,6,6", "--dtype", "int8").code == 2
    assert "no such file or folder" in run("bench", "nowhere").line


def test_doctor(run: Run) -> None:
    rows = run("doctor", "--json").json["engines"]
    assert [row["engine"] for row in rows] == ["numba", "triton", "torch", "reference"]
    assert all(row["available"] or row["reason"] for row in rows)
    assert "reference" in run("doctor").out


TRAIN = """
import torch
from prismify.layers import DeepPrism, DeepPrismTranspose2d, Prism
for layer, shape in (
    (DeepPrism(64, volumes=(2, 2)), (1, 64, 20, 20)),
    (DeepPrism(64), (1, 64, 8, 6)),
    (DeepPrismTranspose2d(32, kernel_size=4, stride=2, padding=1), (1, 32, 16, 16)),
    (Prism(64), (2, 5, 64)),
):
    layer(torch.randn(shape, requires_grad=True)).sum().backward()
"""


@pytest.mark.slow
def test_what_is_compiled_ahead_is_compiled_no_more(tmp_path: Path) -> None:
    def ran(*words: str) -> tuple[str, set[Path]]:
        there = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], env=there, capture_output=True, text=True, check=True)
        return done.stdout, set(tmp_path.rglob("*.nbc"))

    start = f"import prismify; prismify.__path__.append({str(ROOT)!r})\nfrom prismify.cli.main import app; app()"
    told, programs = ran("-c", start, "doctor", "--compile", "--json")
    compiled = ["maps", "narrow maps", "maps with kernels of 4", "tokens", "fused blocks"]
    assert list(json.loads(told)["compiled_seconds"]) == compiled
    assert len(programs) == (11 if vector_bytes() > 16 else 9)
    assert ran("-c", TRAIN)[1] == programs


def test_what_cannot_be_compiled_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'int8' is not one of" in run("doctor", "--compile", "--dtype", "int8").err
    absent = dataclasses.replace(ENGINES["numba"], unavailable=lambda: "numba is not installed")
    monkeypatch.setitem(ENGINES, "numba", absent)
    assert run("doctor", "--compile").line == "nothing to compile: numba is not installed"
