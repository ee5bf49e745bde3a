"""Policy narrow: the same layers with fewer channels between them, and starts that equal the model where they can."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from prismify.cli.main import app
from torch import Tensor, nn
from typer.testing import CliRunner

import prismify
from prismify import Plan, Policy
from prismify.errors import PlanError, ShapeError
from prismify.facts.trial import culprits
from prismify.layers import Operator, build_operator
from prismify.training.blockwise import start_from
from tests.tolerances import equivalent


class Block(nn.Module):
    """A residual block that is told a time; its stream is `width` wide, its inside `inner`."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1)
        self.time = nn.Linear(4, inner)
        self.norm2 = nn.GroupNorm(inner // 4, inner)
        self.batch = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return x + self.conv2(F.silu(self.batch(self.norm2(h))))


class Net(nn.Module):
    def __init__(self, width: int = 16, inner: int = 24) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(2))
        self.up = nn.ConvTranspose2d(width, inner, 4, stride=2, padding=1)
        self.side = nn.Conv2d(3, inner, 3, padding=1)
        self.leave = nn.Conv2d(2 * inner, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        side = self.side(F.interpolate(x, scale_factor=2.0))
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, time)
        return self.leave(torch.cat([self.up(F.relu(x)), side], 1))


INPUTS = torch.randn(2, 3, 8, 8), torch.randn(2, 4)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def widths_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")}


@pytest.mark.parametrize("options", [{"share": 0.5}, {"width": 8}, {}])
def test_all_along_a_width_lose_the_same_channels(net: Net, options: dict[str, Any]) -> None:
    plan = prismify.scan(net, INPUTS, policy=Policy(name="narrow", **options))
    small = prismify.convert(net, plan)
    inner = 8 if "width" in options else 12
    assert widths_of(small) == widths_of(Net(8, inner))
    assert small.blocks[0].norm2.num_groups == inner // 4  # groups are as large as they were
    assert sum(p.numel() for p in small.parameters()) == plan.parameters.after
    assert plan.macs.after == prismify.scan(small, INPUTS).macs.before
    assert small(*INPUTS).shape == net(*INPUTS).shape
    assert type(small.enter) is nn.Conv2d
    names = [row.name for row in plan.layers]
    assert names == [name for name, module in net.named_modules() if name in names]  # norms where they stand


def test_patterns_keep_widths_whole(net: Net) -> None:
    only = prismify.scan(net, INPUTS, policy=Policy(name="narrow", include=("blocks.0.*",)))
    assert {row.name for row in only.replaced} == {
        f"blocks.0.{n}" for n in ("conv1", "time", "norm2", "batch", "conv2")
    }
    without = prismify.scan(net, INPUTS, policy=Policy(name="narrow", exclude=("enter",)))
    rows = {row.name: row for row in without.layers}
    assert rows["enter"].reason.startswith("its channels stay by --include, --exclude")
    assert rows["blocks.0.conv1"].operator == Operator("Narrow", options={"makes": {"blocks.0.conv1": 12}})
    assert rows["leave"].operator is not None
    wide = prismify.scan(net, INPUTS, policy=Policy(name="narrow", min_width=20))
    assert "enter" not in {row.name for row in wide.replaced}
    with pytest.raises(
        PlanError, match="10 layers all of whose channels stay, as enter: its channels stay by --include"
    ):
        prismify.convert(net, args=INPUTS, policy=Policy(name="narrow", width=64))


def test_some_widths_have_a_share_of_their_own(net: Net) -> None:
    shares = {"blocks.0.*": 0.25, "enter": 1.0, "blocks.*": 0.75}
    small = prismify.convert(net, args=INPUTS, policy=Policy(name="narrow", shares=shares))
    weights = widths_of(small)
    assert weights["enter.weight"][0] == 16  # a share of 1 leaves it
    assert (weights["blocks.0.conv1.weight"][0], weights["blocks.1.conv1.weight"][0]) == (8, 16)  # in groups of four
    assert weights["leave.weight"][1] == 24  # half of both
    assert small(*INPUTS).shape == net(*INPUTS).shape
    with pytest.raises(PlanError, match=r"--share 'conv\*' matches no width, .* like 'side'"):
        prismify.scan(net, INPUTS, policy=Policy(name="narrow", shares={"conv*": 0.5}))
    with pytest.raises(PlanError, match=r"share 1.5 of 'enter' must be above 0 and at most 1"):
        Policy(name="narrow", shares={"enter": 1.5})
    with pytest.raises(PlanError, match="share, width and multiple belong to policy 'narrow'"):
        Policy(name="volumes", shares={"enter": 0.5})


def test_widths_are_rounded_to_a_multiple_where_there_are_more(net: Net) -> None:
    def left(**fields: Any) -> tuple[int, int]:
        weights = widths_of(prismify.convert(net, args=INPUTS, policy=Policy(name="narrow", **fields)))
        return weights["enter.weight"][0], weights["blocks.0.conv1.weight"][0]

    assert left(share=0.8) == (12, 20)  # of 16 and 24, in groups of four
    assert left(share=0.8, multiple=8) == (16, 16)
    assert left(share=0.1, multiple=8) == (8, 8)
    assert left(share=0.3, multiple=6) == (12, 12)  # groups of four, and six
    assert left(share=0.5, multiple=16)[0] == 8  # which has no more than that


def doubled(small: nn.Module, big: nn.Module) -> nn.Module:
    """A model twice as wide that computes the same: every channel twice, and read in unequal shares."""

    def order(width: int) -> Tensor:
        groups = torch.arange(width).reshape(-1, 4)
        return torch.stack([groups, groups], 1).flatten()

    shares = torch.tensor([0.3, 0.7], dtype=torch.float64).repeat_interleave(4)
    for name, module in big.named_modules():
        own = small.get_submodule(name)
        if any(module.children()):
            continue
        for key, value in own.state_dict().items():
            target: Any = {**module._parameters, **module._buffers}[key]
            out_axis, in_axis = (1, 0) if isinstance(own, nn.ConvTranspose2d) else (0, 1)
            axis = out_axis if value.dim() > 1 else 0
            if value.dim() and target.shape[axis] != value.shape[axis]:
                value = value.index_select(axis, order(value.shape[axis]))
            if value.dim() > 1 and target.shape[in_axis] != value.shape[in_axis]:
                value = value.index_select(in_axis, order(value.shape[in_axis]))
                spread = shares.repeat(value.shape[in_axis] // 8)
                value = value * spread.reshape([-1 if i == in_axis else 1 for i in range(value.dim())])
            with torch.no_grad():
                target.copy_(value)
    return big


def test_what_the_chosen_channels_tell_of_the_others_is_made_up_for() -> None:
    torch.manual_seed(0)
    small = Net(8, 12).double().eval()
    for block in small.blocks:
        block.norm1 = nn.GroupNorm(2, 8).double()
        nn.init.normal_(block.norm2.weight, 1.0, 0.3)
        block.batch.running_mean.normal_()
        block.batch.running_var.uniform_(0.5, 2)
    inputs = tuple(x.double() for x in (torch.randn(8, 3, 12, 12), torch.randn(8, 4)))
    big = doubled(small, Net(16, 24).double().eval())
    equivalent(big(*inputs), small(*inputs))
    found = prismify.convert(big, args=inputs, policy=Policy(name="narrow")).double()
    assert widths_of(found) == widths_of(small)
    started = start_from(big, found, lambda: big(*inputs), 1 << 20)
    assert set(started) == {row.name for row in found.prismify_plan.replaced}
    torch.testing.assert_close(found(*inputs), big(*inputs), rtol=1e-5, atol=1e-5)


class Normed(nn.Module):
    """A stream of `width` channels between layer norms, over all of an image and over every token."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.whole = nn.LayerNorm((width, 8, 8), elementwise_affine=affine)
        self.token = nn.LayerNorm(width, bias=False)
        self.root = nn.RMSNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.leave = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.whole(self.enter(x))
        tokens = x.flatten(2).mT
        tokens = tokens + self.mlp(self.token(tokens))
        return self.leave(self.root(tokens).mT.reshape(x.shape))


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norms_go_along(affine: bool) -> None:
    torch.manual_seed(0)
    small, inputs = Normed(8, affine).double().eval(), (torch.randn(8, 3, 8, 8).double(),)
    for norm in (small.whole, small.token, small.root):
        if norm.weight is not None:
            nn.init.normal_(norm.weight, 1.0, 0.3)
    big = doubled(small, Normed(16, affine).double().eval())
    equivalent(big(*inputs), small(*inputs))
    plan = prismify.scan(big, args=inputs, policy=Policy(name="narrow"))
    found = prismify.convert(big, args=inputs, policy=Policy(name="narrow")).double()
    assert widths_of(found) == widths_of(small)
    assert sum(p.numel() for p in found.parameters()) == plan.parameters.after
    start_from(big, found, lambda: big(*inputs), 1 << 20)
    torch.testing.assert_close(found(*inputs), big(*inputs), rtol=1e-5, atol=1e-5)


def test_a_start_is_nearer_than_fresh_weights_and_than_any_channels(net: Net) -> None:
    x = (torch.randn(8, 3, 12, 12), torch.randn(8, 4))
    wanted = net(*x)
    small = prismify.convert(net, args=INPUTS, policy=Policy(name="narrow", share=0.75))

    def error() -> float:
        return float(((small(*x) - wanted).square().mean() / wanted.var()).detach())

    fresh = error()
    start_from(net, small, lambda: net(*x), 4000)
    assert error() < 0.5 * fresh


def test_a_plan_and_a_folder_keep_them(net: Net, tmp_path: Path) -> None:
    plan = prismify.scan(net, INPUTS, policy=Policy(name="narrow"))
    plan.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert read.layers == plan.layers
    small = prismify.convert(net, read, args=INPUTS)
    source = f"{__file__}:Net"
    out = tmp_path / "out"
    ran = CliRunner().invoke(
        app,
        [
            "convert",
            source,
            "--input",
            "x=2,3,8,8",
            "--input",
            "time=2,4",
            "--policy",
            "narrow",
            "--width",
            "8",
            "-o",
            str(out),
        ],
    )
    assert ran.exit_code == 0, ran.output
    loaded = prismify.load(out, trust_code=True)
    assert widths_of(loaded) == widths_of(Net(8, 8))
    assert "| 48→3 | output | 16→3 |" in (out / "report.md").read_text()
    rows = json.loads((out / "report.json").read_text())["layers"]
    assert {row["kind"] for row in rows} == {"conv2d", "conv_transpose2d", "linear", "norm"}
    assert small(*INPUTS).shape == loaded(*INPUTS).shape


def changed(plan: Plan, name: str, **fields: Any) -> Plan:
    return replace(plan, layers=tuple(replace(row, **fields) if row.name == name else row for row in plan.layers))


KEEP = {"decision": "keep", "operator": None}
EDITS: list[tuple[Callable[[Plan], Plan], str]] = [
    (lambda plan: changed(plan, "blocks.0.conv2", **KEEP), "stand along one width"),
    (
        lambda plan: changed(plan, "leave", operator=Operator("Narrow", options={"reads": {"up": 12}})),
        "reads is not up",
    ),
    (lambda plan: changed(plan, "blocks.1.norm2", **KEEP), r"stand along one width \(blocks.1.conv1\)"),
    (
        lambda plan: changed(plan, "leave", operator=Operator("Narrow", options={"reads": {"up": 5, "side": 12}})),
        "one width",
    ),
    (
        lambda plan: changed(
            plan,
            "leave",
            operator=Operator("Narrow", options={"reads": {"up": 12, "side": 12}, "makes": {"leave": 2}}),
        ),
        "the channels of leave cannot be fewer: they are a result",
    ),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_an_edited_plan_must_fit_together(net: Net, edit: Callable[[Plan], Plan], message: str) -> None:
    plan = prismify.scan(net, INPUTS, policy=Policy(name="narrow"))
    with pytest.raises(PlanError, match=message) as caught:
        prismify.convert(net, edit(plan), args=INPUTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "paper", "share": 0.5}, "share, width and multiple belong to policy 'narrow'"),
        ({"name": "narrow", "share": 1.5}, "share 1.5 must be between 0 and 1"),
        ({"name": "narrow", "share": 0.5, "width": 8}, "width is not given beside it"),
        ({"name": "volumes", "multiple": 8}, "belong to policy 'narrow'"),
        ({"name": "narrow", "multiple": 0}, "multiple 0 must be a positive number"),
        ({"name": "narrow", "width": 0}, "width 0 must be a positive number"),
        ({"name": "narrow", "operator": "Tucker"}, "leaves layers what they are"),
        ({"name": "narrow", "depth": 8}, "belong to policy 'volumes'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Policy(**fields)


def test_a_layer_alone_is_not_narrowed() -> None:
    with pytest.raises(ShapeError, match="use policy narrow"):
        build_operator(Operator("Narrow"), nn.Conv2d(8, 8, 3))
    with pytest.raises(ShapeError, match="5 channels are no whole groups of 4"):
        build_operator(Operator("Narrow", options={"makes": {"it": 5}}), nn.GroupNorm(4, 16))
    with pytest.raises(ShapeError, match="from 1 to 8"):
        build_operator(Operator("Narrow", options={"makes": {"it": 9}}), nn.Conv2d(8, 8, 3))
    with pytest.raises(ShapeError, match="must be the names of widths"):
        build_operator(Operator("Narrow", options={"makes": 4}), nn.Conv2d(8, 8, 3))
    plain = build_operator(Operator("Narrow", options={"makes": {"it": 4}}), nn.InstanceNorm2d(8))
    assert isinstance(plain, nn.InstanceNorm2d)
    assert plain.num_features == 4


class Counting(nn.Module):
    """It counts the channels of one of its streams, and sets out from another's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in [(3, 16), (16, 24), (24, 16), (16, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x).relu()
        if x.shape[1] != 16:
            raise ValueError("16 wanted")
        x = self.layers[1](x).relu()
        x = self.layers[2](x).relu()
        return self.layers[3](x) + float(x.shape[1] > 0)


def test_what_the_models_own_code_counts_stays() -> None:
    net, x = Counting().eval(), torch.randn(1, 3, 8, 8)
    state = [(name, id(module)) for name, module in net.named_modules()]
    plan = prismify.scan(net, (x,), policy=Policy(name="narrow"))
    assert [(name, id(module)) for name, module in net.named_modules()] == state
    rows = {row.name: row for row in plan.layers}
    assert rows["layers.0"].reason == "its channels stay: the model's own code counts them (ValueError: 16 wanted)"
    assert rows["layers.1"].operator == Operator("Narrow", options={"makes": {"layers.1": 12}})
    assert prismify.convert(net, plan)(x).shape == x.shape


def test_culprits_are_found_by_halves() -> None:
    tried: list[tuple[str, ...]] = []

    def fails(names: Any) -> str | None:
        tried.append(tuple(names))
        return "no" if {"c", "x"} & set(names) else None

    assert culprits([*"abcdefgh"], fails) == {"c": "no"}
    assert len(tried) == 7
    assert culprits([*"ab"], fails) == {}
