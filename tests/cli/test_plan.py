"""A plan from `scan --plan-out`, edited by hand, replays exactly what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prismify
from prismify.layers import DeepPrism, Prism, PrismConv

Run = Callable[..., Any]
SOURCE = "timm:test_resnet"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, run: Run) -> str:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    ran = run("scan", SOURCE, "--plan-out", path)
    assert ran.code == 0
    assert ran.err.splitlines() == [
        f"plan written to {path}",
        f"next: prismify convert {SOURCE} --plan {path} -o DIR",
    ]
    return path.read_text()


def edited(scanned: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    plan = json.loads(scanned)
    change({row["name"]: row for row in plan["layers"]} | {"": plan})
    (folder / "edited.json").write_text(json.dumps(plan))
    return folder / "edited.json"


def replaced(scanned: str) -> list[str]:
    return [row["name"] for row in json.loads(scanned)["layers"] if row["decision"] == "replace"]


def test_the_edit_is_carried_out_and_nothing_else(tmp_path: Path, run: Run, scanned: str) -> None:
    names = replaced(scanned)
    assert len(names) >= 4

    def change(rows: dict[str, Any]) -> None:
        rows[names[0]]["decision"] = "keep"
        rows[names[1]]["operator"] = {"type": "PrismConv", "form": "sum", "bias": "channel", "topology": "circular"}
        rows[names[2]]["operator"]["channel_kernel_size"] = 5

    ran = run("convert", SOURCE, "--plan", edited(scanned, tmp_path, change), "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    rows = {row["name"]: row for row in ran.json["layers"]}
    assert [n for n, row in rows.items() if row["decision"] == "replace"] == names[1:]
    assert rows[names[1]]["operator"]["type"] == "PrismConv"
    model = prismify.load(tmp_path / "out")
    assert isinstance(model.get_submodule(names[1]), PrismConv)
    assert model.get_submodule(names[2]).weight.shape[2] == 5
    assert not isinstance(model.get_submodule(names[0]), (DeepPrism, Prism, PrismConv))
    assert isinstance(model.get_submodule(names[3]), DeepPrism)
    assert ran.json["parameters"]["after"] == sum(p.numel() for p in model.parameters())


def test_a_kept_layer_can_be_replaced_by_hand(tmp_path: Path, run: Run, scanned: str) -> None:
    kept = next(
        row["name"]
        for row in json.loads(scanned)["layers"]
        if row["rule"] == "width_changes" and row["kind"] == "conv2d"
    )

    def change(rows: dict[str, Any]) -> None:
        row = rows[kept]
        depth = min(row["in_channels"], row["out_channels"])
        volumes = [row["in_channels"] // depth, row["out_channels"] // depth]
        kind = "Prism" if row["kernel_size"] == [1, 1] else "DeepPrism"
        row.update(decision="replace", operator={"type": kind, "volumes": volumes})

    ran = run("convert", SOURCE, "--plan", edited(scanned, tmp_path, change), "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert kept in [row["name"] for row in ran.json["layers"] if row["decision"] == "replace"]


def test_an_unchanged_plan_does_what_the_policy_does(tmp_path: Path, run: Run, scanned: str) -> None:
    plan = edited(scanned, tmp_path, lambda rows: None)
    by_plan = run("convert", SOURCE, "--plan", plan, "-o", tmp_path / "a", "--json").json
    by_policy = run("convert", SOURCE, "-o", tmp_path / "b", "--json").json
    for key in ("layers", "parameters", "macs", "kept", "policy"):
        assert by_plan[key] == by_policy[key]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, name: rows[name].update(name="decoder.9"), "the plan's layer 'decoder.9' is not in ResNet"),
        (lambda rows, name: rows[name].update(colour="red"), "unknown field 'colour'; known are"),
        (lambda rows, name: rows[name].update(decision="drop"), "decision 'drop' is not one of replace, keep"),
        (lambda rows, name: rows[name].pop("kind"), "field 'kind' is missing"),
        (lambda rows, name: rows[name].update(operator=None), "to replace it, give an operator such as"),
        (lambda rows, name: rows[name].update(operator={"type": "Dense"}), "operator: type 'Dense' is not one of"),
        (lambda rows, name: rows[name].update(operator={"kind": "DeepPrism"}), "unknown field 'kind'"),
        (lambda rows, name: rows[name]["operator"].update(volumes=[3, 3]), ""),
        (lambda rows, name: rows[name]["operator"].update(channel_kernel_size=2), ""),
        (lambda rows, name: rows[""]["layers"].pop(), "the plan has no row for layer"),
        (lambda rows, name: rows[""].update(version=2), "plan version 2 is not 1"),
        (lambda rows, name: rows[""].update(layers=3), "a plan needs a list of layers"),
        (lambda rows, name: rows[""].update(extra=3), "unknown field 'extra'"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_one_line(
    tmp_path: Path, run: Run, scanned: str, change: Callable[..., Any], message: str
) -> None:
    name = replaced(scanned)[0]
    plan = edited(scanned, tmp_path, lambda rows: change(rows, name))
    ran = run("convert", SOURCE, "--plan", plan, "-o", tmp_path / "out")
    assert ran.code == 1
    assert (message or name) in ran.line
    assert "not JSON" not in ran.line
    assert not (tmp_path / "out").exists()


def test_a_plan_that_keeps_everything_is_nothing_to_convert(tmp_path: Path, run: Run, scanned: str) -> None:
    plan = edited(scanned, tmp_path, lambda rows: [rows[n].update(decision="keep") for n in replaced(scanned)][:0])
    assert "has nothing to convert" in run("convert", SOURCE, "--plan", plan, "-o", tmp_path / "out").line


def test_a_plan_takes_the_place_of_nothing_but_a_plan(tmp_path: Path, run: Run, scanned: str) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    for name in ("thesis.tex", "link.json"):
        assert "exists and is no plan" in run("scan", SOURCE, "--plan-out", tmp_path / name).line
    words = ["convert", SOURCE, "--plan-only", "--force", "-o"]
    assert "exists and is no plan" in run(*words, tmp_path / "thesis.tex").line
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    (tmp_path / "plan.json").write_text(scanned)
    assert run("scan", SOURCE, "--plan-out", tmp_path / "plan.json").code == 0
