"""Widths under a budget: what fewer channels cost, which of them go, and the plan that comes of it."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from prismify.recipes import carry_out
from torch import Tensor, nn

import prismify
from prismify import Policy
from prismify.errors import PlanError
from prismify.plan.narrowing import widths_of_plan, with_channels
from prismify.search import Budget
from prismify.search.curves import Curve, curves_of
from prismify.search.widths import Spread, WidthsOutcome, read_widths, write_widths
from prismify.training.blockwise import moments_of, start_narrowed
from prismify.training.recipe import recipe_from
from tests.plan.test_narrow import INPUTS, Net
from tests.search.test_asking import small_unet

LEAST = Policy(name="narrow", width=1, min_width=1)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


def outcome_of(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path = Path()) -> WidthsOutcome:
    plan = prismify.scan(model, inputs, policy=LEAST)
    moments = moments_of(model, [row.name for row in plan.replaced], lambda: model(*inputs), 4000)
    curves, _ = curves_of(model, plan, moments, model, [inputs])
    return WidthsOutcome(folder, plan, tuple(curves), Spread(1.0), "net.py:Net")


def test_a_plan_with_other_channels_is_what_a_scan_with_those_shares_says(net: Net) -> None:
    least = prismify.scan(net, INPUTS, policy=LEAST)
    assert widths_of_plan(least) == {"enter": 4, "blocks.0.conv1": 4, "blocks.1.conv1": 4, "up": 1, "side": 1}
    draw, rows = Random(0), {row.name: row for row in least.layers}
    for _ in range(20):
        left = {n: step * draw.randint(1, rows[n].out_channels // step) for n, step in widths_of_plan(least).items()}
        shares = {name: channels / rows[name].out_channels for name, channels in left.items()}
        wanted = prismify.scan(net, INPUTS, policy=Policy(name="narrow", min_width=1, shares=shares))
        found = with_channels(least, left)
        assert (found.parameters, found.macs, found.size_bytes) == (wanted.parameters, wanted.macs, wanted.size_bytes)
        assert found.replaced == wanted.replaced
        if found.replaced:
            small = prismify.convert(net, found, args=INPUTS)
            assert sum(p.numel() for p in small.parameters()) == found.parameters.after


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (4, 2), (4, 4)])
def test_transposed_readers_weigh_what_they_cost(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    made = [nn.Conv2d(3, 16, 1), nn.ConvTranspose2d(16, 8, kernel, stride, (kernel - stride) // 2), nn.Conv2d(8, 3, 1)]
    net, x = nn.Sequential(*made).eval().requires_grad_(False), torch.randn(32, 3, 6, 6)
    with torch.no_grad():
        made[0].weight.copy_((torch.randn(16, 3) @ torch.randn(3, 3))[..., None, None])
    plan = prismify.scan(net, (x,), policy=LEAST)
    moments = moments_of(net, [row.name for row in plan.replaced], lambda: net(x), 1 << 20)
    found, orders = curves_of(net, plan, moments, net, [(x,)])
    curve = next(curve for curve in found if curve.name == "0")
    narrower = with_channels(plan, {c.name: 1 if c.name == "0" else c.channels for c in found})
    small = prismify.convert(net, narrower, args=(x,))
    start_narrowed(narrower.replaced, net, small, moments, orders=orders)
    error = float((small(x) - net(x)).square().mean().detach())
    assert 0.5 < curve.errors[0] / error < 2


def test_readers_with_too_many_features_are_weighed_by_their_channels(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {curve.name: curve for curve in outcome_of(net, INPUTS).curves}
    monkeypatch.setattr("prismify.layers.spectrum.moments.MOST_FEATURES", 200)  # leaves those of `leave` out
    coarse = {curve.name: curve for curve in outcome_of(net, INPUTS).curves}
    assert coarse["enter"] == whole["enter"]
    for name in ("up", "side"):
        assert 0.2 < coarse[name].errors[0] / whole[name].errors[0] < 5
        assert coarse[name].errors[-2] < coarse[name].errors[0]


class Rounded(nn.Module):
    """What is in front of the rounding, no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1))
        self.back = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x).round())


def test_widths_that_no_gradient_reaches_stay() -> None:
    torch.manual_seed(0)
    net, x = Rounded().eval().requires_grad_(False), torch.randn(4, 3, 6, 6)
    outcome = outcome_of(net, (x,))
    levels = {curve.name: curve.levels for curve in outcome.curves}
    assert levels["front.0"] == (16,)
    assert len(levels["back.0"]) == 16
    left = outcome.within(Budget(error=1e9))
    assert (left["front.0"], left["back.0"]) == (16, 1)
    plan = prismify.scan(net, (x,), policy=LEAST)
    with pytest.raises(PlanError, match="no gradient of Rounded's output reaches its layers"):
        curves_of(net, plan, {}, torch.no_grad()(net), [(x,)])


class Linear(nn.Module):
    """Layers alone, so that errors are what their first order says; six channels tell all the others."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(8, 16, 1)
        self.inner = nn.Conv2d(16, 12, 1)
        self.leave = nn.Conv2d(12, 3, 1)
        with torch.no_grad():
            self.enter.weight.copy_((torch.randn(16, 6) @ torch.randn(6, 8))[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.inner(self.enter(x)))


def test_curves_say_what_narrowing_costs() -> None:
    torch.manual_seed(0)
    net, x = Linear().eval().requires_grad_(False), torch.randn(64, 8, 4, 4)
    plan = prismify.scan(net, (x,), policy=LEAST)
    moments = moments_of(net, [row.name for row in plan.replaced], lambda: net(x), 1 << 20)
    found, orders = curves_of(net, plan, moments, net, [(x,)])
    curves = {curve.name: curve for curve in found}
    assert curves["enter"].levels == tuple(range(1, 17))
    wanted = net(x)
    for name, left in product(curves, (1, 2, 3, 4, 5, 6, 9)):
        curve = curves[name]
        narrower = with_channels(plan, {n: left if n == name else c.channels for n, c in curves.items()})
        small = prismify.convert(net, narrower, args=(x,))
        start_narrowed(narrower.replaced, net, small, moments, orders=orders)
        error = float((small(x) - wanted).square().mean().detach())
        expected = curve.errors[curve.levels.index(left)]
        if left >= 6:
            assert max(error, expected) < 1e-2 * curve.errors[0]
        else:
            assert 0.4 < expected / error < 2.5
    for curve in curves.values():
        assert list(curve.errors) == sorted(curve.errors, reverse=True)
        assert curve.errors[-1] == 0


def test_what_the_output_does_not_depend_on_costs_nothing(net: Net) -> None:
    with torch.no_grad():
        net.leave.weight[:, 24:] = 0  # those of the side
    curves = {curve.name: curve for curve in outcome_of(net, INPUTS).curves}
    assert max(curves["side"].errors) == 0 < max(curves["up"].errors)


@pytest.mark.parametrize("measure", ["parameters", "macs"])
def test_budgets_are_kept_and_no_even_choice_loses_less(net: Net, measure: str) -> None:
    outcome = outcome_of(net, INPUTS)
    before, least = (getattr(getattr(outcome.plan, measure), when) for when in ("before", "after"))
    for share in (0.7, 0.4, 0.2):
        most = least + share * (before - least)
        left = outcome.within(Budget(**{measure: most}))
        found = outcome.expected(left)
        assert found[measure] <= most
        assert found[measure] == getattr(outcome.plan_of(left), measure).after
        even = [
            chosen
            for part in range(1, 33)
            if outcome.expected(chosen := even_choice(outcome.curves, part / 32))[measure] <= most
        ]
        assert found["relative_error"] <= min(outcome.expected(c)["relative_error"] for c in even) * (1 + 1e-9)


@pytest.mark.parametrize("channels", [16, 64])
def test_every_budget_from_the_least_on_is_kept_or_refused(channels: int) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 3, 1)
    net, x = nn.Sequential(*layers).eval().requires_grad_(False), torch.randn(4, 3, 4, 4)
    outcome = outcome_of(net, (x,))
    least = outcome.plan.parameters.after
    assert least == 4 + 2 + 6
    for most in (least, least + 1, 3 * least, 10 * least):
        assert outcome.expected(outcome.within(Budget(parameters=most)))["parameters"] <= most
    with pytest.raises(PlanError, match=f"no widths have at most {least - 1} parameters: the least is {least}"):
        outcome.within(Budget(parameters=least - 1))


def even_choice(curves: tuple[Curve, ...], share: float) -> dict[str, int]:
    return {c.name: max([n for n in c.levels if n <= share * c.channels], default=c.levels[0]) for c in curves}


def test_a_bound_on_the_error_takes_what_it_can(net: Net) -> None:
    outcome = outcome_of(net, INPUTS)
    whole = sum(curve.errors[0] for curve in outcome.curves)
    sizes = []
    for share in (0.01, 0.1, 0.5):
        left = outcome.within(Budget(error=share * whole))
        found = outcome.expected(left)
        assert found["relative_error"] <= share * whole
        sizes.append(found["parameters"])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.8 * outcome.plan.parameters.before


def test_what_is_written_is_read_again(net: Net, tmp_path: Path) -> None:
    outcome = outcome_of(net, INPUTS, tmp_path)
    write_widths(outcome)
    read = read_widths(tmp_path)
    assert (read.curves, read.spread, read.source) == (outcome.curves, outcome.spread, outcome.source)
    assert read.plan.layers == outcome.plan.layers
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert len(rows) == sum(len(curve.levels) for curve in outcome.curves)
    written = json.loads((tmp_path / "widths.json").read_text())
    damages: list[tuple[list[Any], Any]] = [
        (["plan"], {}), (["curves", 0, "name"], "x"), (["curves", 0, "levels"], []), (["curves", 0, "errors"], [1.0]),
        (["curves", 0, "errors", 0], None), (["curves", 0, "levels", 0], 1e400), (["curves"], written["curves"][1:]),
        (["spread", "variance"], "x"), (["spread", "random"], [[1.0]]), (["spread"], None), (["curves"], None),
    ]  # fmt: skip
    for way, value in damages:
        content: Any = json.loads(json.dumps(written))
        holder = content
        for key in way[:-1]:
            holder = holder[key]
        holder[way[-1]] = value
        (tmp_path / "widths.json").write_text(json.dumps(content))
        with pytest.raises(PlanError, match=r"is damaged .*: search again") as caught:
            read_widths(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "widths.json").write_text(json.dumps({**written, "version": 2}))
    with pytest.raises(PlanError, match=r"widths.json was written by another version of prismify$"):
        read_widths(tmp_path)


def test_budgets_that_cannot_be_kept_are_told(net: Net) -> None:
    outcome = outcome_of(net, INPUTS)
    with pytest.raises(PlanError, match=r"^no widths have at most 10 parameters: the least is [\d,]+$"):
        outcome.within(Budget(parameters=10))
    with pytest.raises(PlanError, match="no milliseconds are known of widths"):
        outcome.within(Budget(milliseconds=1.0))
    with pytest.raises(PlanError, match="keep these budgets together"):
        outcome.within(Budget(parameters=outcome.plan.parameters.after, error=1e-9))
    with pytest.raises(PlanError, match="gives no images back"):
        outcome.drop(0.5)


def test_a_denoisers_widths_are_searched(squares: Path, tmp_path: Path) -> None:
    small_unet().save_pretrained(tmp_path / "unet")
    content: dict[str, Any] = {
        "recipe": "search",
        "model": {"source": str(tmp_path / "unet")},
        "candidates": {"none": {"name": "paper"}},
        "widths": True,
        "fitted": 4,
        "noise": {},
        "data": {"path": str(squares), "size": 16, "validation": 4},
        "train": {"batch_size": 4, "learning_rate": 1e-3, "steps": 2, "ema": None, "device": "cpu"},
        "log": {"every": 1, "tensorboard": False},
        "output": str(tmp_path / "found"),
    }
    said: list[Any] = []
    carry_out(recipe_from(content, "recipe"), said.append)
    outcome = read_widths(tmp_path / "found")
    assert outcome.spread.reference is None
    assert len(outcome.spread.random) == 20
    assert outcome.spread.correlation > 0.5
    before = outcome.plan.parameters.before
    left = outcome.within(Budget(parameters=before / 2))
    assert 0.4 * before < outcome.expected(left)["parameters"] <= before / 2
    model = small_unet()
    small = prismify.convert(model, outcome.plan_of(left))
    noised, times = torch.randn(2, 3, 16, 16), torch.tensor([3, 7])
    assert small(noised, times).sample.shape == model(noised, times).sample.shape
