"""A weight that a model reads or writes by itself, runs without gradient, or froze."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prismify


class Net(nn.Module):
    """Convolutions whose middle one is used as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        widths = ((3, 32), (32, 32), (32, 32), (32, 3))
        self.a, self.c, self.d, self.z = (nn.Conv2d(i, o, 3, padding=1) for i, o in widths)
        weight = self.c.weight
        self.bare = lambda x: nn.functional.conv2d(x, weight, padding=1)

    def forward(self, x):
        w, h = self.c.weight, self.a(x)
        if self.how == "written":
            with torch.no_grad():
                w.copy_(w / w.flatten(1).norm(dim=1).view(-1, *[1] * (w.dim() - 1)))
        if self.how == "written in training" and self.training:
            self.c.weight.data.mul_(0.5)
        if self.how == "given":
            self.c.weight.data = self.d.weight.data * 2
        if self.how == "no gradient":
            with torch.no_grad():
                h = self.c(h)
        elif self.how == "detached":
            h = self.c(h).detach()
        else:
            h = self.bare(h) if self.how == "by a closure" else self.c(h)
        if self.how == "read":
            h = h / w.abs().max()
        if self.how == "a matrix":
            h = h + w.flatten(1).sum(1)[:, None, None]
        if self.how == "the bias":
            h = h - self.c.bias[:, None, None]
        h = self.d(h)
        if self.how == "a regulariser in training" and self.training:
            return self.z(h), w.square().sum()
        return self.z(h.to(w))


READ = ["read", "by a closure", "a matrix", "the bias", "a regulariser in training"]
WRITTEN = ["written", "written in training", "given"]


@pytest.mark.parametrize("how", [*READ, *WRITTEN])
def test_a_layer_whose_weight_is_used_without_a_call_is_kept(how: str) -> None:
    net, x = Net(how), torch.randn(1, 3, 16, 16)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plan = prismify.scan(net, (x,))
    row = {d.name: d for d in plan.layers}["c"]
    assert row.decision == "keep"
    assert ("without calling it" if how in READ else "written by the model") in row.reason
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {d.name: d.decision for d in plan.layers}["d"] == ("keep" if how == "given" else "replace")
    if how != "given":
        assert type(prismify.convert(net, plan, args=(x,)).d).__name__ == "DeepPrism"


def test_asking_a_weight_for_its_type_is_no_use() -> None:
    rows = {d.name: d.decision for d in prismify.scan(Net("asked"), (torch.randn(1, 3, 16, 16),)).layers}
    assert rows == {"a": "keep", "c": "replace", "d": "replace", "z": "keep"}


@pytest.mark.parametrize("how", ["no gradient", "detached"])
def test_layers_that_the_model_runs_without_gradient_are_kept(how: str) -> None:
    net, x = Net(how), torch.randn(1, 3, 16, 16)
    small = prismify.convert(net, args=(x,))
    row = {d.name: d for d in small.prismify_plan.layers}["c"]
    assert "without gradient" in row.reason
    assert type(small.d).__name__ == "DeepPrism"


def test_a_model_that_turns_gradients_off_as_a_whole_says_nothing_of_its_layers() -> None:
    class Quiet(Net):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    assert len(prismify.scan(Quiet("plain"), (torch.randn(1, 3, 16, 16),)).replaced) == 2


def test_a_frozen_layer_is_said_to_become_an_untrained_one() -> None:
    net, x = Net("plain"), torch.randn(1, 3, 16, 16)
    net.c.requires_grad_(False)
    plan = prismify.scan(net, (x,))
    assert any("1 frozen layers (requires_grad=False), such as c" in note for note in plan.notes)
    assert "frozen" in {d.name: d for d in plan.layers}["c"].reason
    assert not any("frozen" in note for note in prismify.scan(net.requires_grad_(False), (x,)).notes)


def test_a_scan_leaves_every_generator_where_it_was() -> None:
    import random

    import numpy as np

    class Dropping(Net):
        def forward(self, x):
            return super().forward(x) * random.random() * np.random.rand() * torch.rand(1)

    net, x = Dropping("plain"), torch.randn(1, 3, 16, 16)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    prismify.scan(net, (x,))
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tobytes()
    assert torch.equal(before[2], torch.get_rng_state())
