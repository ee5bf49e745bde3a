"""Reasons are true: what a layer is called dead, cond or never called for is what the model does."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify import Policy, scan
from tests.graph.nets import C, Chain, conv

USED = "its weight is used by the model without calling it"


class Concatenated(nn.Module):
    """q, k and v run as one, put together in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.q, self.k, self.v, self.out = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h, parts = self.head(x), (self.q, self.k, self.v)
        qkv = F.linear(h, torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
        return self.tail(h + self.out(F.scaled_dot_product_attention(*qkv.chunk(3, -1))))


class Stacked(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(C, C) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        mixed = torch.einsum("bi,eoi->beo", h.mean((2, 3)), torch.stack([e.weight for e in self.experts])).mean(1)
        return self.tail(self.body(h) + mixed[..., None, None])


class Merged(Chain):
    """RepVGG-like: two kernels are summed before they are applied."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = conv(), conv(k=1)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.wide.weight + F.pad(self.point.weight, (1, 1, 1, 1))
        return self.tail(self.body(F.conv2d(self.head(x), kernel, self.wide.bias, padding=1)))


class BiasAlone(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x)) + self.shift.bias[None, :, None, None])


@pytest.mark.parametrize(
    ("net", "size", "names"),
    [
        (Concatenated, (1, 5, 3), ("q", "k", "v")),
        (Stacked, (1, 3, 8, 8), ("experts.0", "experts.1", "experts.2")),
        (Merged, (1, 3, 8, 8), ("wide", "point")),
        (BiasAlone, (1, 3, 8, 8), ("shift",)),
    ],
)
def test_all_owners_of_a_weight_put_together_are_in_use(net, size, names):
    rows = {row.name: row for row in scan(net(), (torch.randn(size),)).layers}
    assert {name: (rows[name].role, rows[name].decision, rows[name].reason) for name in names} == dict.fromkeys(
        names, ("inner", "keep", USED)
    )


class HeadOfTraining(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.extra, self.forgotten = conv(), conv()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.body(self.head(x))
        return (self.tail(h), self.extra(h)) if self.training else self.tail(h)


def test_what_training_alone_calls_is_not_never_called():
    rows = {row.name: row for row in scan(HeadOfTraining(), (torch.randn(1, 3, 8, 8),)).layers}
    assert "called in training alone" in rows["extra"].reason
    assert "never called" in rows["forgotten"].reason


class Midway(Chain):
    def __init__(self, leave) -> None:
        super().__init__()
        self.leave = leave

    def forward(self, x: Tensor) -> Tensor:
        h = self.body[0](self.head(x))
        return self.tail(self.body[2](self.leave(h)))


@pytest.mark.parametrize(
    "leave", [lambda h: torch.tensor(h.tolist()), lambda h: torch.from_numpy(h.detach().numpy() * 2)]
)
def test_data_that_leaves_the_tensors_makes_nothing_dead_or_cond(leave):
    rows = scan(Midway(leave), (torch.randn(1, 3, 8, 8),)).layers
    assert {(row.role, row.rule) for row in rows} == {("unknown", "untraced")}


def test_what_comes_from_noise_is_not_called_time_class_or_text_alone():
    class Noisy(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.noise = nn.Sequential(conv(3), conv())

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.body(self.head(x) + self.noise(torch.randn_like(x))))

    rows = {row.name: row for row in scan(Noisy(), (torch.randn(1, 3, 8, 8),)).layers}
    assert rows["noise.1"].role == "cond"
    assert "noise" in rows["noise.1"].reason


def test_a_weight_that_the_model_itself_holds_as_well_names_it():
    class Holds(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.own = self.body[0].weight

    rows = {row.name: row for row in scan(Holds(), (torch.randn(1, 3, 8, 8),)).layers}
    assert rows["body.0"].reason == (
        "it shares a weight or bias with the model itself, which does not change in the same way"
    )


#: What a reason may name -> the policy it stands for.
NAMED = {
    "policy volumes with --context": {"name": "volumes", "context": True},
    "policy volumes with --feed-forward": {"name": "volumes", "feed_forward": True},
    "policy volumes": {"name": "volumes"},
    "--context": {"name": "volumes", "context": True},
    "--feed-forward": {"name": "volumes", "feed_forward": True},
}


def test_an_option_that_a_reason_names_does_what_the_reason_says() -> None:
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DConditionModel(
        block_out_channels=(24, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), sample_size=8,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=36, norm_num_groups=4,
        layers_per_block=1, attention_head_dim=8,
    )  # fmt: skip
    under = {option: scan(net, policy=Policy(**changed)).layers for option, changed in NAMED.items()}
    seen = set()
    for own in ({"name": "paper"}, {"name": "volumes"}):
        for number, row in enumerate(scan(net, policy=Policy(**own)).layers):
            for option, rows in under.items():
                for verb, wanted in ((" replaces it", "replace"), (" keeps it too", "keep")):
                    if re.search(rf"(?<!with ){re.escape(option)}{verb}", row.reason):
                        assert (rows[number].name, rows[number].decision) == (row.name, wanted)
                        seen.add((option, verb))
    assert len(seen) >= 5
    assert {verb for _, verb in seen} == {" replaces it", " keeps it too"}
