"""Operators of people's own: registered, planned, counted, built, checked, saved and loaded like prismify's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import prismify
from prismify.errors import PlanError, ShapeError, SourceError
from prismify.layers import Operator, build_operator, own, register_operator
from prismify.plan import Plan, Policy, Verdict, decide
from prismify.training.rates import parameters_by_kind
from tests.tolerances import exact


class Squeeze(nn.Module):
    """A convolution to `rank` channels, and a pointwise one back."""

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up

    @classmethod
    def from_layer(cls, layer: nn.Module, rank: int = 2) -> Squeeze:
        if isinstance(layer, nn.Linear):
            return cls(nn.Linear(layer.in_features, rank, False), nn.Linear(rank, layer.out_features))
        if not isinstance(layer, nn.Conv2d):
            raise TypeError("a convolution in two dimensions is wanted")
        down = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, bias=False)
        return cls(down, nn.Conv2d(rank, layer.out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x))
        return y


class Reusing(Squeeze):
    @classmethod
    def from_layer(cls, layer: nn.Module, rank: int = 2) -> Any:
        made = super().from_layer(layer, rank)
        made.down.weight = layer.weight
        return made


class Narrowing(Squeeze):
    @classmethod
    def from_layer(cls, layer: nn.Module, rank: int = 2) -> Any:
        return cls(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_OWN", {})
    for operator in (Squeeze, Reusing, Narrowing):
        register_operator(operator)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, 2, padding=1),
        nn.Conv2d(16, 24, 3, padding=1, bias=False),
        nn.Conv2d(24, 3, 3, padding=1),
    ).eval()


def squeezed(layer: Any) -> Any:
    return Operator("Squeeze", options={"rank": 3}) if layer.role == "inner" else None


X = torch.randn(2, 3, 16, 16)


def test_an_own_operator_is_planned_counted_and_built() -> None:
    plan = prismify.scan(net(), (X,), policy=squeezed)
    assert [d.decision for d in plan.layers] == ["keep", "replace", "replace", "keep"]
    assert plan.policy == {"name": f"{__name__}:squeezed"}
    strided = plan.layers[1]
    assert strided.parameters_after == 3 * 16 * 9 + 3 * 16 + 16
    assert strided.macs_after == 2 * 8 * 8 * (3 * 16 * 9 + 3 * 16)
    small = prismify.convert(net(), plan, args=(X,))
    assert sum(p.numel() for p in small.parameters()) == plan.parameters.after
    assert type(small[2]).__name__ == "Squeeze"
    assert small(X).shape == (2, 3, 8, 8)
    assert {len(v) for v in parameters_by_kind(small).values()} == {6, 0, 4}


def test_its_plan_is_a_file_and_its_folder_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prismify.scan(net(), (X,), policy=squeezed)
    plan.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert read == plan
    small = prismify.convert(net(), read, args=(X,))
    prismify.save(small, tmp_path / "out")  # as modules without their weights
    exact(prismify.load(tmp_path / "out")(X), small(X))
    monkeypatch.setattr(own, "_OWN", {})
    with pytest.raises(SourceError, match=r"holds the operator Squeeze \(.*test_own\.Squeeze\), which nothing has"):
        prismify.load(tmp_path / "out")
    with pytest.raises(PlanError, match=r"layer '1': operator: type 'Squeeze' is not one of DeepPrism, .*: import"):
        Plan.load(tmp_path / "plan.json")


def test_an_own_operator_takes_a_graphs_layers_and_becomes_plain_torch(tmp_path: Path) -> None:
    small = prismify.convert(fx.symbolic_trace(net()), args=(X,), policy=squeezed)
    prismify.save(small, tmp_path / "graph")
    program = torch.export.export(net(), (X,))
    converted = prismify.convert(program, policy=squeezed)
    plan = converted.prismify_plan
    assert len(plan.replaced) == 2
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters.after
    prismify.save(converted, tmp_path / "program")
    exact(prismify.load(tmp_path / "program").module()(X), converted.module()(X))


def test_layers_that_it_cannot_take_are_kept_with_the_reason() -> None:
    def everything(name: str) -> Any:
        return lambda layer: Operator(name)

    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 3, 3))
    grouped = prismify.scan(model, (X,), policy=everything("Squeeze")).layers[1]
    assert (grouped.decision, grouped.rule) == ("keep", "unsupported")
    row = prismify.scan(net(), (X,), policy=everything("Reusing")).layers[1]
    assert row.reason == (
        "Reusing.from_layer returned the layer's own weight in its operator: clone it, or make new parameters"
    )
    row = prismify.scan(net(), (X,), policy=everything("Narrowing")).layers[1]
    assert row.reason.startswith("Narrowing does not run on 2x16x16x16: RuntimeError: ")
    row = prismify.scan(nn.Sequential(*(nn.Conv1d(8, 8, 3) for _ in range(3))), (torch.randn(1, 8, 16),),
                        policy=everything("Squeeze")).layers[1]  # fmt: skip
    assert row.reason == (
        "Squeeze cannot take the place of a Conv1d: TypeError: a convolution in two dimensions is wanted"
    )


def test_a_verdict_of_an_own_policy_is_kept_as_it_is() -> None:
    def policy(layer: Any) -> Any:
        if layer.name == "1":
            return decide(layer, Policy())
        return Verdict(None, "mine", "because")

    plan = prismify.scan(net(), (X,), policy=policy)
    assert [d.rule for d in plan.layers] == ["mine", "replaced", "mine", "mine"]
    assert plan.layers[1].operator == Operator("DeepPrism")
    assert plan.layers[0].reason == "because"
    with pytest.raises(PlanError, match="policy 3 is no policy's name"):
        prismify.scan(net(), (X,), policy=3)  # type: ignore[arg-type]


def test_device_type_and_mode_are_the_layers() -> None:
    layer = nn.Linear(16, 16, device="meta", dtype=torch.float64).eval()
    made = build_operator(Operator("Squeeze"), layer)
    assert {(p.device.type, p.dtype) for p in made.parameters()} == {("meta", torch.float64)}
    assert not made.training


def test_names_are_not_taken_twice_and_classes_are_seen_to_fit() -> None:
    register_operator(Squeeze)  # again: as a module that is imported anew does
    other = type("Squeeze", (nn.Module,), {"from_layer": Squeeze.from_layer, "__qualname__": "Other.Squeeze"})
    with pytest.raises(ShapeError, match=r"'Squeeze' is .*test_own\.Squeeze already: give register_operator another"):
        register_operator(other)
    register_operator(other, "Other")
    with pytest.raises(ShapeError, match="'Prism' is one of prismify's own"):
        register_operator(Squeeze, "Prism")
    with pytest.raises(ShapeError, match=r"Linear has no class method from_layer"):
        register_operator(nn.Linear)
    with pytest.raises(ShapeError, match=r"is no class of nn\.Module"):
        register_operator(squeezed)  # type: ignore[type-var]
    with pytest.raises(ShapeError, match="a Prism has no options, and is given rank"):
        Operator("Prism", options={"rank": 3})
