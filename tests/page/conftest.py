"""Reports of models that are as large, and as ill-named, as they come."""

from __future__ import annotations

from typing import Any

import pytest

from prismify.layers import Operator
from prismify.plan import Decision, Plan, Totals
from prismify.scanning import build_report

#: What a page must show and never run.
HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&amp;\"'\u2028`${1}"


def report_of(layers: list[Decision], *, name: str = "Net", source: str = "net.py:make") -> dict[str, Any]:
    """The report of a model that has these layers, and 1,000 parameters outside of them."""

    def total(key: str, more: int = 0) -> Totals:
        return Totals(*(more + sum(getattr(row, f"{key}_{when}") for row in layers) for when in ("before", "after")))

    shapes = {"inputs": [{"name": "x", "shape": [1, 3, 32, 32]}], "outputs": []}
    capture = ({"method": "forward", "technique": "recorder on fake tensors", "failed": [], **shapes},)
    plan = Plan(
        name,
        {"name": "paper"},
        tuple(layers),
        parameters=total("parameters", 1000),
        macs=total("macs"),
        size_bytes=Totals(total("parameters").before * 4, total("parameters").after * 4),
        capture=capture,
        notes=("A note.",),
    )
    return build_report(plan, source)


def layer(name: str, number: int = 0, **changes: Any) -> Decision:
    """One layer: of every three two are replaced."""
    replaced, before = number % 3 != 0, 36_864 * (1 + number % 7)
    facts: dict[str, Any] = {
        "kind": "conv2d" if number % 2 else "linear",
        "role": "inner" if replaced else "input",
        "decision": "replace" if replaced else "keep",
        "rule": "replaced" if replaced else "input_output",
        "reason": "inner C->C convolution" if replaced else f"input layer {number}: nothing stands before it",
        "operator": Operator("DeepPrism") if replaced else None,
        "in_channels": 64,
        "out_channels": 64,
        "kernel_size": (3, 3) if number % 2 else (),
        "calls": 1,
        "input_shape": (1, 64, 8 + number % 40, 32),
        "output_shape": (1, 64, 8 + number % 40, 32),
        "parameters_before": before,
        "parameters_after": 28 if replaced else before,
        "macs_before": before * 1024,
        "macs_after": 28 * 1024 if replaced else before * 1024,
    }
    return Decision(name, **{**facts, **changes})


@pytest.fixture(scope="session")
def hostile() -> dict[str, Any]:
    """A report in which everything that comes from a model is markup."""
    layers = [layer(f"{HOSTILE}.{n}", n, reason=HOSTILE, kind=HOSTILE) for n in range(4)]
    return report_of(layers, name=HOSTILE, source=HOSTILE)


@pytest.fixture(scope="session")
def large() -> dict[str, Any]:
    """A report of 2,000 layers."""
    names = [f"transformer.blocks.{n // 20}.{('attention', 'feed_forward')[n % 2]}.layers.{n % 20}.projection"
             for n in range(2000)]  # fmt: skip
    return report_of([layer(name, n) for n, name in enumerate(names)], name="Large")
