"""What holds for every network, over randomly generated ones (tests/random_nets.py)."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import nn

import prismify
from prismify.errors import PrismifyError
from prismify.plan import Plan, Policy
from tests.random_nets import NETS, Attend, Gate, Join, PixelLinear, RandomNet, Spec

OWN = [f"{c.__module__}.{c.__qualname__}" for c in (RandomNet, Join, PixelLinear, Attend, Gate)]
POLICIES = st.builds(
    Policy,
    name=st.just("volumes"),
    topology=st.sampled_from(["zero", "replicate", "circular"]),
    bias=st.sampled_from(["scalar", "channel"]),
    min_volume=st.sampled_from([1, 4, 16]),
    feed_forward=st.booleans(),
) | st.just(Policy())
_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("LowRank", {"rank": 2}),
    ("Tucker", {"rank": 3}),
    ("Grouped", {"groups": 2}),
    ("Separable", {}),
    ("Gained", {"operator": {"type": "LowRank", "options": {"rank": 1}}}),
    ("Sum", {"operators": [{"type": "LowRank", "options": {"rank": 1}}, {"type": "Separable"}]}),
]
POLICIES |= st.builds(
    lambda chosen, name, feed_forward: Policy(
        name=name, feed_forward=feed_forward and name == "volumes", operator=chosen[0], options=chosen[1]
    ),
    chosen=st.sampled_from(_OPTIONS),
    name=st.sampled_from(["paper", "volumes"]),
    feed_forward=st.booleans(),
)
POLICIES |= st.builds(Policy, name=st.just("narrow"), share=st.sampled_from([0.25, 0.5, 0.75]), min_width=st.just(2))
#: The same examples every time, in a minute on two cores.
_DETERMINISTIC: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
many, few = settings(max_examples=25, **_DETERMINISTIC), settings(max_examples=10, **_DETERMINISTIC)


def built(spec: Spec) -> RandomNet:
    torch.manual_seed(0)
    return RandomNet(spec).eval()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything conversion could touch: modules by identity, values bit by bit, flags."""
    return {
        "modules": {name: id(module) for name, module in model.named_modules(remove_duplicate=False)},
        "training": {name: module.training for name, module in model.named_modules()},
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "identities": {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)},
        "flags": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    assert {k: v for k, v in before.items() if k != "values"} == {k: v for k, v in after.items() if k != "values"}


@many
@given(spec=NETS, policy=POLICIES)
def test_a_conversion_keeps_shapes_trains_everywhere_and_comes_back_from_disk(spec: Spec, policy: Policy) -> None:
    model, x = built(spec), torch.randn(2, 3, 7, 9)
    before = snapshot(model)
    plan = prismify.scan(model, (x,), policy=policy)
    assert_untouched(model, before)
    assert plan.parameters.before == sum(p.numel() for p in model.parameters())
    if not plan.replaced:
        with pytest.raises(PrismifyError, match="nothing to convert"):
            prismify.convert(model, plan, args=(x,))
        return
    small = prismify.convert(model, plan, args=(x,))
    assert_untouched(model, before)
    assert sum(p.numel() for p in small.parameters()) == plan.parameters.after

    y = small(x)
    assert y.shape == model(x).shape
    y.square().mean().backward()
    for row in plan.replaced:
        for name, parameter in small.get_submodule(row.name).named_parameters():
            assert parameter.grad is not None, f"{row.name}.{name}"
            assert torch.isfinite(parameter.grad).all(), f"{row.name}.{name}"

    with tempfile.TemporaryDirectory() as folder:
        prismify.save(small, Path(folder) / "out")
        loaded = prismify.load(Path(folder) / "out", allow=OWN)
        again = prismify.load(Path(folder) / "out", model=built(spec))
    assert torch.equal(loaded(x), y)
    assert torch.equal(again(x), y)


@many
@given(spec=NETS)
def test_roles_of_the_ends_and_one_row_a_layer(spec: Spec) -> None:
    model = built(spec)
    rows = {row.name: row for row in prismify.scan(model, torch.randn(1, 3, 8, 8)).layers}
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert sorted(rows) == sorted(layers)
    assert {name for name, row in rows.items() if "input" in row.role} == {"head"}
    assert {name for name, row in rows.items() if "output" in row.role} == {"tail"}
    assert all(row.role == "inner" for name, row in rows.items() if name not in ("head", "tail"))
    assert all(row.reason for row in rows.values())


@few
@given(spec=NETS)
def test_an_empty_plan_changes_nothing(spec: Spec) -> None:
    model, x = built(spec), torch.randn(1, 3, 8, 8)
    plan = prismify.scan(model, (x,))
    kept = tuple(dataclasses.replace(row, decision="keep", operator=None) for row in plan.layers)
    plan, before = dataclasses.replace(plan, layers=kept), snapshot(model)
    for verb in (prismify.convert, prismify.convert_):
        with pytest.raises(PrismifyError, match="nothing to convert"):
            verb(model, plan, args=(x,))
        assert_untouched(model, before)


def _broken(plan: dict[str, Any], how: str) -> dict[str, Any]:
    """A plan that cannot be carried out, from one that can."""
    plan = copy.deepcopy(plan)
    last = next(row for row in reversed(plan["layers"]) if row["decision"] == "replace")
    if how == "name":
        last["name"] = "body.nowhere"
    elif how == "row":
        plan["layers"].remove(last)
    elif how == "kernel":
        last["operator"]["channel_kernel_size"] = 4 * last["in_channels"] + 1
    elif how == "volumes":
        last["operator"]["volumes"] = [last["in_channels"] + 1] * 2
    else:  # the head has three channels in, which no single volume takes
        head = next(row for row in plan["layers"] if row["name"] == "head")
        head |= {"decision": "replace", "rule": "by_hand", "operator": {"type": "DeepPrism"}}
    return plan


@few
@given(spec=NETS, how=st.sampled_from(["name", "row", "kernel", "volumes", "head"]))
def test_a_failed_conversion_changes_nothing(spec: Spec, how: str) -> None:
    model, x = built(spec), torch.randn(1, 3, 8, 8)
    plan = prismify.scan(model, (x,))
    if not plan.replaced:
        return
    before = snapshot(model)
    broken = _broken(plan.to_dict(), how)
    for verb in (prismify.convert, prismify.convert_):
        with pytest.raises(PrismifyError) as error:
            verb(model, Plan.from_dict(broken), args=(x,))
        note(str(error.value))
        assert "\n" not in str(error.value)
        assert_untouched(model, before)


@few
@given(spec=NETS)
def test_a_conversion_that_fails_its_checks_changes_nothing(spec: Spec) -> None:
    """The model runs on the weights it was made with, and on no others."""
    model, x = built(spec), torch.randn(1, 3, 8, 8)
    if not prismify.scan(model, (x,)).replaced:
        return
    model.insists_on = model.shapes()
    before = snapshot(model)
    for verb in (prismify.convert, prismify.convert_):
        with pytest.raises(PrismifyError, match="not the weights I was made with"):
            verb(model, args=(x,))
        assert_untouched(model, before)
