"""`prismify bench` and `prismify doctor` on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


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
