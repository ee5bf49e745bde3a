"""Widths: which channels could be another number, read off the graph; and what stands in the others' way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify.facts import inventory
from prismify.graph import capture_all
from prismify.graph.dataflow import Width

Between = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """An inner width of 12 channels with something between its maker and its reader."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 12)
        self.batch = nn.BatchNorm2d(12)
        self.layer = nn.LayerNorm(12)
        self.root = nn.RMSNorm(12)
        self.whole = nn.LayerNorm((12, 8, 8))
        self.gain = nn.Parameter(torch.ones(12, 1, 1))
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.again = nn.Conv2d(12, 12, 3, padding=1)
        self.time = nn.Linear(4, 12)
        self.tokens = nn.Linear(12, 12)
        self.last = nn.Conv2d(12, 3, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x)))


def attended(net: nn.Module, x: Tensor) -> Tensor:
    return x * net.again(x).mean((2, 3), keepdim=True).sigmoid()  # type: ignore[operator]


def timed(net: nn.Module, x: Tensor) -> Tensor:
    embedded = net.time(torch.ones(1, 4))[:, :, None, None]  # type: ignore[operator]
    return F.silu(net.norm(x + embedded))  # type: ignore[operator]


def as_tokens(net: nn.Module, x: Tensor) -> Tensor:
    return net.tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[operator]


def widths(between: Between) -> dict[str, Width]:
    net = Net(between).eval()
    found = inventory(net, capture_all(net, (torch.randn(2, 3, 8, 8),)))
    return {width.name: width for width in found.widths.rows}


FREE: dict[str, tuple[Between, set[str], set[str], tuple[str, ...], int]] = {
    "nothing": (lambda net, x: x, {"first"}, {"last"}, (), 1),
    "activations": (lambda net, x: F.gelu(x).clamp(min=0) * 0.5 + 1, {"first"}, {"last"}, (), 1),
    "in place": (lambda net, x: x.relu_().add_(1.0), {"first"}, {"last"}, (), 1),
    "norms": (lambda net, x: net.batch(net.norm(x)), {"first"}, {"last"}, ("norm", "batch"), 3),
    "layer norms": (
        lambda net, x: net.root(net.layer(net.whole(x).movedim(1, -1))).movedim((0, 3), (0, 1)),
        {"first"},
        {"last"},
        ("whole", "layer", "root"),
        1,
    ),
    "residual": (lambda net, x: x + net.again(x.relu()), {"first", "again"}, {"again", "last"}, (), 1),
    "attended": (attended, {"first", "again"}, {"again", "last"}, (), 1),
    "resampled": (lambda net, x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2), {"first"}, {"last"}, (), 1),
    "padded": (lambda net, x: F.pad(x, (1, 0, 0, 1), mode="constant"), {"first"}, {"last"}, (), 1),
    "timed": (timed, {"first", "time"}, {"last"}, ("norm",), 3),
    "masked": (lambda net, x: x * (torch.rand(1, 1, 8, 8) > 0.5), {"first"}, {"last"}, (), 1),
    "tokens": (as_tokens, {"first"}, {"tokens"}, (), 1),
    "flattened": (lambda net, x: x.flatten(2).reshape(2, 12, 4, 16).view(2, 12, 8, 8), {"first"}, {"last"}, (), 1),
    "flat tokens": (
        lambda net, x: (
            net.tokens(x.flatten(2).transpose(1, 2).reshape(128, 12)).view(2, 64, 12).mT.reshape(2, 12, 8, 8)
        ),
        {"first"},
        {"tokens"},
        (),
        1,
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_what_can_be_narrowed(name: str) -> None:
    between, makers, readers, norms, step = FREE[name]
    width = widths(between)["first"]
    assert width.obstacle is None
    assert (set(width.makers), set(width.readers), width.norms, width.step) == (makers, readers, norms, step)
    assert width.channels == 12
    assert widths(between)["last"].obstacle == "they are a result"


STAY: dict[str, tuple[Between, str]] = {
    "joined and cut": (lambda net, x: torch.cat([x, x], 1)[:, :12], "slice in the model"),
    "joined with data": (lambda net, x: torch.cat([x, torch.ones(2, 3, 8, 8)], 1)[:, :12], "cat in the model"),
    "reshaped": (lambda net, x: x.reshape(2, 3, 4, 8, 8).flatten(1, 2), "reshape in the model"),
    "cut": (lambda net, x: x[:, :6].repeat(1, 2, 1, 1), "slice in the model"),
    "a norm over places": (lambda net, x: F.layer_norm(x, (8, 8)), "layer_norm in the model"),
    "a parameter": (lambda net, x: x * net.gain, "mul in the model"),
    "softmax": (lambda net, x: x.softmax(1), "softmax in the model"),
    "over channels": (lambda net, x: x - x.mean(1, keepdim=True), "mean in the model"),
    "depthwise": (lambda net, x: net.depthwise(x), "depthwise: depthwise convolution"),
    "the data": (lambda net, x: x + torch.ones(2, 12, 8, 8), "add in the model"),
}


@pytest.mark.parametrize("name", STAY)
def test_what_stays_and_why(name: str) -> None:
    between, why = STAY[name]
    assert widths(between)["first"].obstacle == why


class Joined(nn.Module):
    """Two streams side by side, normalised together."""

    def __init__(self, groups: int = 5, twice: bool = False) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(groups, 20)
        self.last = nn.Conv2d(20, 3, 3, padding=1)
        self.tower = nn.Conv2d(8, 8, 3, padding=1) if twice else None
        self.after = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        y = self.last(F.silu(self.norm(torch.cat([left, right], 1))))
        return y if self.tower is None else y + self.after(torch.cat([right, right + self.tower(right)], dim=1))


def test_layers_read_several_widths_side_by_side() -> None:
    net, x = Joined().eval(), torch.randn(1, 3, 8, 8)
    found = inventory(net, capture_all(net, (x,))).widths
    assert found.read == {"last": ("left", "right"), "norm": ("left", "right")}
    assert [(w.name, w.step, w.readers, w.norms, w.obstacle) for w in found.rows[:2]] == [
        ("left", 4, ("last",), ("norm",), None),
        ("right", 4, ("last",), ("norm",), None),
    ]
    over = Joined(groups=2).eval()  # a group of ten channels lies over the border
    first = inventory(over, capture_all(over, (x,))).widths.rows[0]
    assert first.obstacle == "group_norm in norm"
    twice = Joined(twice=True).eval()
    rows = {w.name: w for w in inventory(twice, capture_all(twice, (x,))).widths.rows}
    assert rows["right"].obstacle == "after reads them twice"
    assert rows["left"].obstacle is None


def test_a_layer_or_norm_that_is_called_twice_ties_its_widths() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.ModuleList(nn.Conv2d(3, 12, 1) for _ in range(2))
            self.norm = nn.GroupNorm(2, 12)
            self.leave = nn.ModuleList(nn.Conv2d(12, 3, 1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return sum(leave(self.norm(enter(x))) for enter, leave in zip(self.enter, self.leave, strict=True))

    net = Twice()
    width = inventory(net, capture_all(net, (torch.randn(1, 3, 4, 4),))).widths.rows[0]
    assert (width.makers, width.readers) == (("enter.0", "enter.1"), ("leave.0", "leave.1"))
    assert (width.norms, width.step) == (("norm",), 6)


def test_tied_layers_and_weights_used_elsewhere_stay() -> None:
    def tied(net: nn.Module) -> str | None:
        found = inventory(net, capture_all(net, (torch.randn(1, 3, 4, 4),)))
        return found.widths.rows[0].obstacle

    stack = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1))
    assert tied(stack) is None
    stack[1].weight = stack[2].weight
    assert tied(stack) == "1 shares its weight or bias with 2"
    spectral = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 1)), nn.Conv2d(8, 3, 1))
    assert tied(spectral) is not None
