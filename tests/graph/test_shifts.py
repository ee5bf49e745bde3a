"""A new bias of one number is made where it can do something, and left out where a norm takes it away again.

Judged by numbers: what is left out is put in, moved by one, and must leave the model's result as it was; what is kept
must change it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify import Plan, Policy, convert, load, save, scan
from tests.graph.nets import C, Chain, conv
from tests.tolerances import equivalent

Reader = Callable[[nn.Module, Tensor], Tensor]
INSTANCE = nn.InstanceNorm2d(C).double()
RUNNING = nn.InstanceNorm2d(C, track_running_stats=True).double().eval()
BATCH = nn.BatchNorm2d(C).double().eval()
OF_ITSELF = nn.BatchNorm2d(C, track_running_stats=False).double()
RMS = nn.RMSNorm(C).double()
GAIN = nn.Parameter(torch.rand(C, 1, 1, dtype=torch.float64))
ALPHA = nn.Parameter(torch.rand((), dtype=torch.float64))


def layers(h: Tensor) -> Tensor:
    """A layer norm over the channels."""
    return F.layer_norm(h.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2)


def groups(h: Tensor) -> Tensor:
    return F.group_norm(h, 4)


def by_hand(h: Tensor) -> Tensor:
    """ConvNeXt's norm, written out."""
    centred = h - h.mean(1, keepdim=True)
    return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


def windows(h: Tensor) -> Tensor:
    """A layer norm of windows of tokens, as Swin cuts them."""
    b, c, *_ = h.shape
    cut = torch.roll(h, 1, 2).view(b, c, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    return F.layer_norm(cut, (c,)).view(b, 2, 2, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(h.shape)


REMOVED: dict[str, Reader] = {
    "layer norm": lambda net, h: layers(h),
    "group norm": lambda net, h: groups(h),
    "group norm of one": lambda net, h: F.group_norm(h, 1),
    "instance norm": lambda net, h: INSTANCE(h),
    "batch norm of its own": lambda net, h: OF_ITSELF(h),
    "written out": lambda net, h: by_hand(h),
    "a standard deviation": lambda net, h: (h - h.mean((2, 3), True)) / (h.std((2, 3), keepdim=True) + 1e-5),
    "softmax": lambda net, h: h.softmax(1),
    "windows": lambda net, h: windows(h),
    "beside the stream": lambda net, h: layers(net.head(net.seen) + h),
    "in place": lambda net, h: layers(net.head(net.seen).add_(h)),
    "several readers": lambda net, h: layers(h) + groups(h),
    "parts": lambda net, h: torch.cat([F.group_norm(part, 2) for part in h.chunk(2, 1)], 1),
    "joined again": lambda net, h: groups(torch.cat(h.split(C // 2, 1)[::-1], 1)),
    "scaled": lambda net, h: layers(h * 0.5 / 3),
    "by one gain": lambda net, h: layers(h * ALPHA),
    "dropout": lambda net, h: layers(F.dropout(h, 0.1, net.training)),
    "pooled": lambda net, h: groups(F.interpolate(F.max_pool2d(h, 2) + F.avg_pool2d(h, 2), scale_factor=2.0)),
    "reflected": lambda net, h: groups(F.pad(h, (1, 1, 1, 1), mode="reflect")),
    "twice the same": lambda net, h: layers(h + h),
    "against itself": lambda net, h: h - h.flip(1),
}
KEPT: dict[str, Reader] = {
    "nothing": lambda net, h: h,
    "activation": lambda net, h: layers(F.silu(h)),
    "rms norm": lambda net, h: RMS(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "batch norm": lambda net, h: BATCH(h),
    "instance norm with running statistics": lambda net, h: RUNNING(h),
    "a reader beside the norm": lambda net, h: layers(h) + h.relu(),
    "the stream beside the norm": lambda net, h: h + layers(h),
    "padded with zeros": lambda net, h: groups(F.pad(h, (1, 1, 1, 1))),
    "averaged with zeros": lambda net, h: groups(F.avg_pool2d(h, 3, 1, 1)),
    "beside others": lambda net, h: F.group_norm(torch.cat([net.head(net.seen), h], 1), 1)[:, C:],
    "by a gain a channel": lambda net, h: layers(h * GAIN),
    "gated": lambda net, h: layers(net.head(net.seen) + h * net.head(net.seen).sigmoid()),
    "squared": lambda net, h: layers(h * h),
    "inverted": lambda net, h: layers(1 / (h + 9)),
    "normed by length": lambda net, h: F.normalize(h, dim=1),
    "compared": lambda net, h: layers(h * (h > 0)),
    "clamped": lambda net, h: layers(h.clamp(-0.1, 0.1)),
    "written into": lambda net, h: layers(torch.zeros_like(h).index_copy(1, torch.arange(3), h[:, :3])),
}


class Read(Chain):
    """A convolution, and something that reads what it makes."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.body, self.reader = conv(), reader

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.tail(self.reader(self, self.body(self.head(x))))


def with_biases(plan: Plan) -> Plan:
    """The plan in which every operator has its bias of one number."""
    rows = [
        dataclasses.replace(d, operator=d.operator and dataclasses.replace(d.operator, bias="scalar"))
        for d in plan.layers
    ]
    return dataclasses.replace(plan, layers=tuple(rows))


def moved(small: nn.Module, bias: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
    """What a model returns, before and after one of its biases is moved by one."""
    with torch.no_grad():
        before = small(*args)
        bias.add_(1)
        return before, small(*args)


def check(net: nn.Module, name: str, x: Tensor, removed: bool, policy: str = "volumes") -> None:
    """Whether a layer's new bias is left out as it should, and has an effect or none accordingly."""
    net = net.double().eval()
    plan = scan(net, (x,), policy=policy)
    row = next(d for d in plan.layers if d.name == name)
    assert row.operator is not None
    assert row.operator.bias == ("none" if removed else "scalar"), row.reason
    assert ("without a bias" in row.reason) is removed
    small = convert(net, plan)
    assert sum(p.numel() for p in small.parameters()) == plan.parameters.after
    assert (small.get_submodule(name).bias is None) is removed
    whole = convert(net, with_biases(plan), args=(x,))
    before, after = moved(whole, whole.get_submodule(name).bias, x)
    if removed:
        equivalent(after, before)
    else:
        assert (after - before).abs().max() > 1e-4


@pytest.mark.parametrize("reader", REMOVED)
def test_a_bias_that_every_reader_takes_away_is_not_made(reader):
    check(Read(REMOVED[reader]), "body", torch.randn(2, 3, 8, 8, dtype=torch.float64), True)


@pytest.mark.parametrize("reader", KEPT)
def test_a_bias_that_one_reader_shows_is_made(reader):
    check(Read(KEPT[reader]), "body", torch.randn(2, 3, 8, 8, dtype=torch.float64), False)


class Blocks(nn.Module):
    """A transformer: the last attention's output goes to norms alone, or to a result as well."""

    def __init__(self, final: bool, first: bool = True) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        layer = nn.TransformerEncoderLayer(C, 2, C, norm_first=first, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(C) if final else None, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.layers(self.head(x)))


@pytest.mark.parametrize(
    ("final", "first", "removed"), [(True, True, True), (False, True, False), (False, False, True)]
)
def test_an_attention_whose_output_norms_alone_read(final, first, removed):
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    check(Blocks(final, first), "layers.layers.1.self_attn.out_proj", x, removed, "paper")


def test_the_paper_counts_the_biases_in_front_of_group_norms_and_the_plan_says_so():
    net, x = Read(REMOVED["group norm"]), torch.randn(1, 3, 8, 8)
    plan = scan(net, (x,))
    assert [d.operator.bias for d in plan.replaced if d.operator] == ["scalar"]
    assert any(n.startswith("1 new biases of one number, such as that of body, have no effect") for n in plan.notes)
    assert not any("no effect" in note for note in scan(net, (x,), policy="volumes").notes)
    assert not any("no effect" in note for note in scan(Read(KEPT["activation"]), (x,)).notes)


def test_biases_of_several_numbers_stay():
    class Wider(Read):
        def __init__(self) -> None:
            super().__init__(REMOVED["layer norm"])
            self.body, self.tail = nn.Sequential(conv(C, 2 * C), conv(2 * C, C)), conv(C, 3)

    x = torch.randn(1, 3, 8, 8)
    by_channel = scan(Read(REMOVED["layer norm"]), (x,), policy=Policy("volumes", bias="channel"))
    assert [d.operator.bias for d in by_channel.replaced if d.operator] == ["channel"]
    of_volumes = scan(Wider(), (x,), policy=Policy("volumes", min_width=1, min_volume=1, depth=8))
    assert {d.operator.bias for d in of_volumes.replaced if d.operator} == {"scalar"}


def test_a_layer_called_twice_keeps_a_bias_that_one_call_shows():
    class Twice(Read):
        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.body(layers(self.body(self.head(x)))))

    check(Twice(REMOVED["layer norm"]), "body", torch.randn(1, 3, 8, 8, dtype=torch.float64), False)


@pytest.mark.parametrize("shown", [False, True])
def test_tied_layers_lose_their_bias_together_or_not_at_all(shown):
    class Tied(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.again = conv(), conv()
            self.again.weight = self.body.weight

        def forward(self, x: Tensor) -> Tensor:
            h = self.again(layers(self.body(self.head(x))))
            return self.tail(h if shown else layers(h))

    plan = scan(Tied(), (torch.randn(1, 3, 8, 8),))
    assert {d.name: d.operator.bias for d in plan.replaced if d.operator} == dict.fromkeys(
        ("body", "again"), "scalar" if shown else "none"
    )
    assert type(convert(Tied(), plan).body).__name__ == "DeepPrism"


def test_where_values_are_read_nothing_is_proven():
    class Branching(Read):
        def forward(self, x: Tensor) -> Tensor:
            h = self.body(self.head(x))
            return self.tail(layers(h) if float(h.mean()) < 1 else h)

    plan = scan(Branching(REMOVED["layer norm"]), (torch.randn(1, 3, 8, 8),))
    assert [d.operator.bias for d in plan.replaced if d.operator] == ["scalar"]


@pytest.mark.parametrize("bias", ["scalar", "none"])
def test_plans_and_folders_with_and_without_the_bias_are_read(bias, tmp_path):
    net, x = nn.Sequential(conv(3), conv(), nn.InstanceNorm2d(C), conv(C, 3)).eval(), torch.randn(1, 3, 8, 8)
    plan = scan(net, (x,))
    plan = with_biases(plan) if bias == "scalar" else Plan.from_dict(plan.to_dict())
    small = convert(net, plan, args=(x,))
    assert (small[1].bias is not None) is (bias == "scalar")
    save(small, tmp_path / "small")
    back = load(tmp_path / "small")
    assert back.prismify_plan.layers == small.prismify_plan.layers
    assert torch.equal(back(x), small(x))


def test_programs_and_graphs_lose_their_bias_as_well():
    net, x = nn.Sequential(conv(3), conv(), nn.InstanceNorm2d(C), conv(C, 3)).eval(), torch.randn(2, 3, 8, 8)
    program = convert(torch.export.export(net, (x,)))
    assert {name for name in program.state_dict if name.startswith("1.")} == {"1.weight"}
    assert program.module()(x).shape == x.shape
    graph = convert(torch.export.export(net, (x,)).module(), args=(x,))
    assert sum(p.numel() for p in graph.parameters()) == graph.prismify_plan.parameters.after
    assert graph.prismify_plan.replaced[0].operator.bias == "none"
