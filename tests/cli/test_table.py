"""Rows of the table: layers that are alike under one name."""

from __future__ import annotations

from typing import Any

import pytest
from prismify.cli.table import Fold


def row(volumes: list[int], bias: str) -> dict[str, Any]:
    operator = {"type": "DeepPrism", "volumes": volumes, "channel_kernel_size": 3, "topology": "zero", "bias": bias}
    return {"operator": operator, "rule": "replaced", "kernel_size": [3, 3], "kind": "conv2d"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([([1, 1], "scalar"), ([1, 1], "scalar")], "DeepPrism 3×3×3"),
        ([([1, 1], "scalar"), ([1, 1], "none")], "DeepPrism 3×3×3, …"),
        ([([1, 2], "scalar"), ([2, 1], "scalar")], "DeepPrism 3×3×3, volumes"),
        ([([1, 1], "scalar"), ([2, 1], "scalar")], "DeepPrism 3×3×3, volumes"),
    ],
)
def test_layers_that_differ_are_named_by_what_they_differ_in(rows: list[tuple[list[int], str]], text: str) -> None:
    assert Fold(["a", "b"], [row(*one) for one in rows]).becomes(wide=True) == text
