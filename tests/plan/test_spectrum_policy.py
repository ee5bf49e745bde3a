"""Policies that choose among the operators between 27 weights and all, and dilate in turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prismify.cli.main import app
from torch import Tensor, nn
from typer.testing import CliRunner

import prismify
from prismify import Policy
from prismify.errors import PlanError
from prismify.layers import DeepPrism, LowRank
from prismify.plan.turns import dilations


class Stack(nn.Module):
    def __init__(self, width: int = 32, layers: int = 5) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers))
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.inner:
            x = x + layer(x.relu())
        return self.leave(x)


@pytest.mark.parametrize(
    ("depth", "kernel", "expected"),
    [
        (32, 3, [1, 2, 4, 8, 16]),
        (32, 5, [1, 2, 4, 8]),
        (12, 3, [1, 2, 4]),
        (7, 3, [1]),
        (2, 3, [1]),
        (8, 1, [1, 2, 4, 8]),
    ],
)
def test_dilations_leave_the_kernel_its_neighbours(depth: int, kernel: int, expected: list[int]) -> None:
    assert dilations(depth, kernel) == expected


def test_dilation_goes_in_turn_and_lets_every_channel_meet_every_other() -> None:
    small = prismify.convert(Stack(), policy=Policy(channel_dilation=True)).double()
    assert [layer.channel_dilation for layer in small.inner] == [1, 2, 4, 8, 16]
    plain = prismify.convert(Stack(), policy=Policy()).double()
    assert [layer.channel_dilation for layer in plain.inner] == [1] * 5

    def reached(model: nn.Module) -> int:
        """Channels of the stack's result that depend on its first channel."""
        x = torch.zeros(2, 32, 5, 5, dtype=torch.float64)
        x[1, 0, 2, 2] = 1.0
        for layer in model.inner:
            x = x + layer(x)
        return int(((x[1] - x[0]).abs() > 1e-12).any(2).any(1).sum())

    assert reached(plain) == 6
    assert reached(small) == 32
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in plain.parameters())


def test_dilation_within_volumes() -> None:
    small = prismify.convert(Stack(), policy=Policy("volumes", depth=16, channel_dilation=True))
    assert [layer.channel_dilation for layer in small.inner] == [1, 2, 4, 8, 1]
    assert all(isinstance(layer, DeepPrism) and layer.volumes == (2, 2) for layer in small.inner)


def test_a_plan_holds_what_was_chosen(tmp_path: Path) -> None:
    small = prismify.convert(Stack(), policy=Policy(operator="LowRank", options={"rank": 4}))
    assert all(isinstance(layer, LowRank) and layer.rank == 4 for layer in small.inner)
    plan = small.prismify_plan
    inner = next(d for d in plan.layers if d.name == "inner.0")
    assert (inner.parameters_after, inner.macs_after) == (4 * 288 + 32 * 4 + 32, 32 * 32 * (4 * 288 + 32 * 4))
    assert plan.parameters.after == sum(p.numel() for p in small.parameters())
    prismify.save(small, tmp_path / "small", reference=f"{__file__}:Stack")
    again = prismify.load(tmp_path / "small", trust_code=True)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(again(x), small.eval()(x))


@pytest.mark.parametrize(
    ("words", "kind", "count"),
    [
        (["--operator", "LowRank", "--option", "rank=2"], "LowRank rank=2", 2 * 288 + 32 * 2 + 32),
        (["--operator", "Grouped", "--option", "groups=8"], "Grouped groups=8", 9 * 32 * 32 // 8 + 32),
        (["--operator", "Separable"], "Separable", 9 * 32 + 32 * 32 + 32),
        (["--operator", "Gained", "--option", 'operator={"type": "DeepPrism"}'], "Gained", 27 + 32 + 32),
        (["--channel-dilation"], "DeepPrism 3×3×3", 28),
        (["--policy", "narrow", "--share", "0.9", "--share", "*=0.25"], "8→8", 9 * 8 * 8 + 8),
    ],
)
def test_the_command_line_names_them(words: list[str], kind: str, count: int, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ran = CliRunner().invoke(app, ["convert", f"{__file__}:Stack", "--input", "1,3,8,8", *words, "-o", out])
    assert ran.exit_code == 0, ran.output
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["layers"]
    inner = [row for row in rows if row["name"].startswith("inner")]
    assert [row["parameters_after"] for row in inner] == [count] * 5
    assert kind in (tmp_path / "out" / "report.md").read_text()
    assert CliRunner().invoke(app, ["report", out]).exit_code == 0


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"operator": "LowRanc"}, "operator 'LowRanc' is not one of Gained, Sum, Grouped, Separable, LowRank"),
        ({"options": {"rank": 2}}, "rank: options of no operator"),
        ({"operator": "LowRank", "options": {"rank": 99}}, "rank 99 must be a whole number from 1 to 32"),
        ({"operator": "LowRank", "options": {"rank": 32}}, "LowRank would need 10,272 numbers where it has 9,248"),
    ],
)
def test_what_cannot_be_is_said(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        prismify.convert(Stack(), policy=Policy(**policy))


def test_depth_by_layer() -> None:
    policy = Policy("volumes", depth=16, depths={"inner.0": 32, "inner.[12]": 8}, min_volume=8)
    small = prismify.convert(Stack(), policy=policy)
    assert [layer.volumes for layer in small.inner] == [(1, 1), (4, 4), (4, 4), (2, 2), (2, 2)]
    with pytest.raises(PlanError, match=r"depths 'outer\.\*' matches no layer"):
        prismify.scan(Stack(), policy=Policy("volumes", depths={"outer.*": 8}))
    with pytest.raises(PlanError, match="depth 0 must be a positive number"):
        Policy("volumes", depths={"*": 0})
    with pytest.raises(PlanError, match="belong to policy 'volumes'"):
        Policy(depths={"*": 8})
