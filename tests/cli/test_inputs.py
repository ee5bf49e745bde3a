"""Models whose inputs cannot be guessed: what the message asks for, and inputs and methods a person declares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import prismify
from prismify.layers import DeepPrism

Run = Callable[..., Any]
PICKY = """
import torch
from torch import nn

class Picky(nn.Module):
    '''Asks for what nobody would guess.'''

    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.words = nn.Embedding(10, 16)

    def forward(self, picture, words, size):
        if picture.shape[2] % 7 or words.is_floating_point():
            raise ValueError('pictures are multiples of 7 high')
        x = nn.functional.interpolate(self.head(picture), size=tuple(size))
        return self.tail(self.body(x) + self.words(words).sum(1)[:, :, None, None])

    def decode(self, latent):
        return self.tail(latent)
"""
INPUTS = ("--input", "picture=1,3,14,14", "--input", "words=1,5:int", "--input", "size:=[8, 8]")


@pytest.fixture
def picky(tmp_path: Path) -> str:
    (tmp_path / "picky.py").write_text(PICKY)
    return f"{tmp_path / 'picky.py'}:Picky"


def roles(report: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["role"] for row in report["layers"]}


def test_what_cannot_be_run_is_listed_and_the_note_shows_the_options(picky: str, run: Run) -> None:
    ran = run("scan", picky, "--json")
    assert ran.code == 0, ran.err
    assert set(roles(ran.json).values()) == {"unknown", "input+output"}  # decode runs by itself
    wanted = "--input picture=1,3,32,32 --input words=1,3,32,32 --input size=1,3,32,32"
    assert any("ValueError: pictures are multiples of 7 high" in n and wanted in n for n in ran.json["notes"])
    assert all("edit the plan by hand" in row["reason"] for row in ran.json["layers"] if row["role"] == "unknown")


def test_inputs_by_name(picky: str, tmp_path: Path, run: Run) -> None:
    ran = run("scan", picky, *INPUTS, "--json")
    assert ran.code == 0, ran.err
    assert roles(ran.json) == {"head": "input", "tail": "input+output", "body": "inner"}
    inputs = {i["name"]: i["shape"] for i in ran.json["capture"][0]["inputs"]}
    assert inputs == {"picture": [1, 3, 14, 14], "words": [1, 5]}
    ran = run("convert", picky, *INPUTS, "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert isinstance(prismify.load(tmp_path / "out", trust_code=True).body, DeepPrism)


def test_inputs_by_name_from_a_file(picky: str, tmp_path: Path, run: Run) -> None:
    torch.save(torch.randn(1, 3, 14, 7), tmp_path / "p.pt")
    words = ("--input", "words=1,5:ones", "--input", "size:=[8, 8]")
    ran = run("scan", picky, "--input", f"picture={tmp_path / 'p.pt'}", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["capture"][0]["inputs"][0]["shape"] == [1, 3, 14, 7]


def test_what_is_not_named_is_guessed(run: Run) -> None:
    ran = run("scan", "diffusers:UNet2DConditionModel", "--arg", "cross_attention_dim=32", "--arg",
              "block_out_channels=[32, 32, 32, 32]", "--input", "sample=2,4,16,16", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    inputs = {i["name"]: i["shape"] for i in ran.json["capture"][0]["inputs"]}
    assert inputs == {"sample": [2, 4, 16, 16], "timestep": [2], "encoder_hidden_states": [2, 7, 32]}


def test_one_method_by_itself(picky: str, run: Run) -> None:
    ran = run("scan", picky, "--method", "decode", "--input", "latent=1,16,4,4", "--json")
    assert ran.code == 0, ran.err
    assert [row["method"] for row in ran.json["capture"]] == ["decode"]
    assert roles(ran.json) == {"head": "dead", "tail": "input+output", "body": "dead"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["picture=1,3,14,14", "1,5:int"], "give every input a name, also '1,5:int', or none"),
        (["picture=three"], "'three' is neither a shape such as 1,3,256,256 nor a .pt file"),
        (["picture=1,3:real"], "'1,3:real' is neither a shape"),
        (["size:=[8"], "the value of size is not JSON: [8"),
        (["picture=nowhere.pt"], "nowhere.pt: no such file"),
    ],
)
def test_inputs_that_cannot_be_read(picky: str, run: Run, inputs: list[str], message: str) -> None:
    ran = run("scan", picky, *(word for text in inputs for word in ("--input", text)))
    assert ran.code == 2
    assert message in ran.line


def test_an_argument_that_the_model_lacks(picky: str, run: Run) -> None:
    ran = run("scan", picky, *INPUTS, "--input", "colour=1")
    assert ran.code == 1
    assert "unexpected keyword argument 'colour'" in ran.line


def test_a_model_that_cannot_be_run_is_converted_by_an_edited_plan(picky: str, tmp_path: Path, run: Run) -> None:
    ran = run("convert", picky, "-o", tmp_path / "out")
    assert ran.code == 1
    assert "nothing to convert" in ran.line
    file = tmp_path / "plan.json"
    ran = run("convert", picky, "--plan-only", "-o", file)
    assert ran.code == 0, ran.err
    assert ran.err.splitlines() == [
        f"plan written to {file}: edit it, then convert with --plan {file}",
        f"next: prismify convert {picky} --plan {file} -o DIR",
    ]
    plan = json.loads(file.read_text())
    row = next(row for row in plan["layers"] if row["name"] == "body")
    assert row["decision"] == "keep"
    row |= {"decision": "replace", "operator": {"type": "DeepPrism"}}
    file.write_text(json.dumps(plan))
    ran = run("convert", picky, "--plan", file, "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    model = prismify.load(tmp_path / "out", trust_code=True)
    assert isinstance(model.body, DeepPrism)
    assert model(torch.randn(1, 3, 14, 14), torch.zeros(1, 5, dtype=torch.long), (8, 8)).shape == (1, 3, 8, 8)


def test_inner_layers_of_a_model_that_cannot_be_run_are_named(picky: str, tmp_path: Path, run: Run) -> None:
    ran = run("convert", picky, "--include", "body", "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    rows = {row["name"]: row for row in ran.json["layers"]}
    assert rows["body"]["role"] == "unknown"
    assert rows["body"]["reason"] == "inner C->C convolution; taken for inner by --include, its role is not known"
    assert [name for name, row in rows.items() if row["decision"] == "replace"] == ["body"]
    assert isinstance(prismify.load(tmp_path / "out", trust_code=True).body, DeepPrism)


def test_plan_only_overwrites_nothing(picky: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "plan.json"
    file.write_text("mine")
    ran = run("convert", picky, "--plan-only", "-o", file)
    assert ran.code == 1
    assert "exists; --plan-only writes a JSON file" in ran.line
    assert file.read_text() == "mine"
    assert run("convert", picky, "--plan-only", "-o", file, "--plan", file).code == 1
    assert "exists and is no plan" in run("convert", picky, "--plan-only", "-o", file, "--force").line
    assert file.read_text() == "mine"
    assert run("convert", picky, "--plan-only", "-o", tmp_path / "new.json").code == 0
    assert run("convert", picky, "--plan-only", "-o", tmp_path / "new.json").code == 1
    assert run("convert", picky, "--plan-only", "-o", tmp_path / "new.json", "--force").code == 0
    assert "layers" in json.loads((tmp_path / "new.json").read_text())
