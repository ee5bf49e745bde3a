"""What a model did not run by chance is kept for that reason, whichever generator it draws from."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prismify import Policy, convert, scan
from prismify.graph.draws import GENERATORS, drawn, put_back, seed, state_of
from tests.graph.nets import C, Chain, conv

REASON = "the model chooses at random whether it is used, and by chance it was not when it was looked at"
_OF_THE_FILE = np.random.default_rng()

Draw = Callable[[nn.Module], float]
#: A number between 0 and 1, from each kind of generator that a model may draw it from.
DRAWS: dict[str, Draw] = {
    "Python's": lambda net: random.random(),
    "numpy's": lambda net: float(np.random.rand()),
    "torch's": lambda net: float(torch.rand(())),
    "Python's, held": lambda net: net.held[0].random(),
    "numpy's, held": lambda net: float(net.held[1].random()),
    "numpy's older, held": lambda net: float(net.held[2].rand()),
    "torch's, held": lambda net: float(torch.rand((), generator=net.held[3])),
    "the file's": lambda net: float(_OF_THE_FILE.random()),
}


class Experts(nn.Module):
    """One of several branches in each call."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.experts = nn.ModuleList(conv() for _ in range(4))
        self.held = (random.Random(), np.random.default_rng(), np.random.RandomState(), torch.Generator())
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.experts[int(4 * self.draw(self))](self.head(x)))


@pytest.mark.parametrize("name", DRAWS)
def test_branches_that_chance_left_out_are_kept_for_that_reason(name):
    net, x = Experts(DRAWS[name]), torch.randn(1, 3, 8, 8)
    where = [state_of(generator) for generator in net.held]
    plan = scan(net, (x,))
    small = convert(net, args=(x,))
    assert [str(state_of(generator)) for generator in net.held] == [str(state) for state in where]
    rows = {d.name: d for d in plan.layers}
    experts = [rows[f"experts.{i}"] for i in range(4)]
    assert sorted(d.decision for d in experts) == ["keep"] * 3 + ["replace"]
    kept = [d for d in experts if d.decision == "keep"]
    assert all(d.reason.startswith(REASON) and (d.rule, d.role) == ("by_chance", "unknown") for d in kept)
    # Chance has it alike each time that one model is looked at.
    assert [d.decision for d in small.prismify_plan.layers] == [d.decision for d in plan.layers]


class Deep(nn.Module):
    """Stochastic depth: blocks that are left out at random, in training or always."""

    def __init__(self, dropped: float, always: bool) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.blocks = nn.ModuleList(conv() for _ in range(8))
        self.dropped, self.always = dropped, always

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        for block in self.blocks:
            if (self.training or self.always) and random.random() < self.dropped:
                continue
            h = h + block(h)
        return self.tail(h)


def test_layers_that_training_leaves_out_at_random_are_replaced():
    small = convert(Deep(0.5, always=False), args=(torch.randn(1, 3, 8, 8),))
    assert all(type(block).__name__ == "DeepPrism" for block in small.blocks)


@pytest.mark.parametrize("dropped", [0.5, 0.9])
def test_blocks_that_evaluation_leaves_out_at_random(dropped):
    rows = {d.name: d for d in scan(Deep(dropped, always=True), (torch.randn(1, 3, 8, 8),)).layers}
    blocks = [rows[f"blocks.{i}"] for i in range(8)]
    assert any(d.decision == "keep" for d in blocks)
    assert all(d.decision == "replace" or d.reason.startswith(REASON) for d in blocks)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_what_training_alone_calls_is_said_to_be_so_however_rarely(share):
    class Auxiliary(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.extra = conv()

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(self.head(x))
            return self.tail(h + self.extra(h) if self.training and random.random() < share else h)

    rows = {d.name: d for d in scan(Auxiliary(), (torch.randn(1, 3, 8, 8),)).layers}
    assert "called in training alone" in rows["extra"].reason


def test_what_is_computed_and_by_chance_not_returned():
    class Returned(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.other = conv()

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(self.head(x))
            ways = self.tail(h), self.tail(self.other(h))
            return ways[random.random() < 0.1]

    rows = {d.name: d for d in scan(Returned(), (torch.randn(1, 3, 8, 8),)).layers}
    assert rows["other"].reason.startswith(REASON)


def test_a_layer_that_chance_left_out_is_not_replaced_by_its_name_alone():
    net, x = Experts(DRAWS["Python's"]), torch.randn(1, 3, 8, 8)
    net.forgotten = conv()
    rows = {d.name: d for d in scan(net, (x,), policy=Policy(include=("experts.*", "forgotten"))).layers}
    assert sum(rows[f"experts.{i}"].reason.startswith(REASON) for i in range(4)) == 3
    assert rows["forgotten"].reason == "never called by the captured methods"


def test_generators_are_told_and_taken_back_whatever_their_kind():
    for generator in Experts(DRAWS["Python's"]).held:
        assert isinstance(generator, GENERATORS)
        before = state_of(generator)
        told = drawn([generator])
        seed(generator, 3)
        assert drawn([generator]) != told
        put_back(generator, before)
        assert drawn([generator]) == told
