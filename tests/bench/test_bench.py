"""Measurements say what they measured; nothing here is timed against a bound."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prismify import convert
from prismify.bench import bench_models, bench_shape, compare, peak_bytes
from prismify.errors import ShapeError
from prismify.graph import ExampleInputs
from tests.graph import nets

CPU = torch.device("cpu")


def test_a_shape_is_measured_against_the_dense_layer_and_the_listing():
    result = bench_shape((1, 8, 6, 6), CPU, seconds=0.01)
    assert result["machine"]["copy_bytes_per_s"] > 0
    for title in ("forward", "forward and backward"):
        rows = result[title]
        assert list(rows) == ["dense", "listing", "prismify"]
        assert rows["dense"]["times_dense"] == 1
        assert all(r["fastest_ms"] <= r["median_ms"] <= r["slowest_ms"] for r in rows.values())
    assert result["forward"]["prismify"]["peak_bytes"] >= 8 * 36 * 4
    with pytest.raises(ShapeError, match="needs a shape"):
        bench_shape((8, 6, 6), CPU)


def test_a_model_is_measured_against_its_conversion():
    model = nets.Timed()
    inputs = ExampleInputs((torch.randn(1, 3, 8, 8), torch.ones(1)))
    converted = convert(model, args=inputs.args)
    result = bench_models(model, converted, inputs, CPU, seconds=0.01)
    for title in ("forward", "forward and backward"):
        assert result[title]["original"]["times_original"] == 1
        assert result[title]["converted"]["median_ms"] > 0
    assert all(p.grad is None for p in (*model.parameters(), *converted.parameters()))


def test_candidates_take_turns():
    turns: list[str] = []
    compare({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, CPU, seconds=0.0)
    assert turns[-10:] == ["a", "b"] * 5


def test_the_peak_is_what_lives_at_once():
    relu = nn.ReLU()

    def call() -> None:
        x = torch.zeros(1000)  # 4000 bytes
        y = relu(x)  # and 4000 more
        del x
        relu(y)  # x is gone

    assert peak_bytes(call, CPU) == 8000
