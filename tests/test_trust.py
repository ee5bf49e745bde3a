"""What comes from strangers: whatever file a command is given, without a flag of trust nothing of it runs, nothing is
deleted, and nothing is written but the output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import prismify

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, wide=16):
        super().__init__()
        self.enter, self.inner = nn.Conv2d(3, wide, 3, padding=1), nn.Conv2d(wide, wide, 3, padding=1)
        self.code, self.leave = nn.Conv2d(wide, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def encode(self, x):
        return self.code(self.inner(self.enter(x).relu()).relu())

    def decode(self, x):
        return self.leave(x)

    def forward(self, x):
        return self.decode(self.encode(x))
"""


@pytest.fixture(scope="module")
def run() -> Callable[..., tuple[int, str]]:
    """`run("scan", source, ...)` in this process: the exit code and what it said."""
    from prismify.cli.main import app

    def invoke(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout + result.stderr

    return invoke


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `images`, a person's own `net.py`, and what they converted from it."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.fromarray(np.full((16, 16, 3), 40 * number, dtype=np.uint8)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(recipe: str = "autoencoder", **changes: Any) -> dict[str, Any]:
    """A recipe of one step."""
    content: dict[str, Any] = {
        "recipe": recipe,
        "model": {"source": "net.py:Net"},
        "data": {"path": "images", "size": 16, "validation": 0},
        "train": {"batch_size": 2, "learning_rate": 1e-3, "steps": 1, "device": "cpu", "ema": None},
        "loss": {"perceptual": 0.0, "adversarial": 0.0} if recipe == "autoencoder" else {},
        "log": {"tensorboard": False},
        "output": "run",
    }
    return content | changes


def write_recipe(recipe: str = "autoencoder", **changes: Any) -> str:
    Path("recipe.yaml").write_text(yaml.safe_dump(settings(recipe, **changes)))
    return "recipe.yaml"


CALLS = {"source": "os:system", "arguments": {"command": "touch ran"}}


@pytest.mark.parametrize(
    ("changes", "words", "says"),
    [
        ({"model": CALLS}, [], "os:system runs Python code of the standard library"),
        ({"model": CALLS}, ["--trust-code"], "os:system runs Python code of the standard library"),
        ({"model": {"source": "net.py:Net", "trust_code": True}}, [], "model.trust_code: a recipe cannot grant trust"),
        ({"model": {"source": "net.py:Net", "allow": ["net.Net"]}}, [], "model.allow: a recipe cannot grant trust"),
        ({"trust_code": True}, ["--trust-code"], "trust_code: a recipe cannot grant trust; remove the key, and add"),
        ({}, [], "net.py:Net, which runs Python code: if you trust it, add --trust-code"),
        ({"model": {"source": "net:Net"}}, [], "net:Net, which runs Python code: if you trust it, add --trust-code"),
        ({"model": {"source": "w.safetensors", "architecture": "net:Net"}}, [], "is built by net:Net, which runs"),
        (
            {"model": {"source": "timm:resnet18", "arguments": {"checkpoint_path": "x.pth"}}},
            [],
            "timm:resnet18 the argument 'checkpoint_path', which reaches for other files",
        ),
    ],
)
def test_a_recipe_runs_nothing_that_the_command_does_not_trust(
    here: Path, run: Any, changes: dict[str, Any], words: list[str], says: str
) -> None:
    (here / "net.py").write_text("open('ran', 'w').close()\n" + NET)
    torch.save({}, "w.safetensors")
    code, said = run("train", write_recipe(**changes), *words)
    assert code == 1
    assert says in said
    assert not (here / "ran").exists()


def test_a_recipe_trains_a_model_of_ones_own_with_the_flag_and_goes_on(here: Path, run: Any) -> None:
    assert run("train", write_recipe(), "--trust-code")[0] == 0
    code, said = run("train", "recipe.yaml", "--set", "train.steps=2", "--trust-code")
    assert code == 0, said
    assert "going on from step 1" in said


ORIGINS = {
    "reference": {"kind": "reference", "reference": "os:system", "arguments": {"command": "touch ran"}},
    "package": {"kind": "reference", "reference": "net:Net", "arguments": {}},
    "path": {"kind": "prismify folder", "path": "os:system"},
    "architecture": {"kind": "weights", "path": "net.py", "reference": "net:Net"},
    "arguments": {"kind": "reference", "reference": "timm:resnet18", "arguments": ["x"]},
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_teacher_from_a_manifest_runs_nothing(here: Path, run: Any, origin: str) -> None:
    prismify.save(prismify.convert(nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in ((3, 8), (8, 8), (8, 3))))), "model")
    manifest = json.loads(Path("model/prismify.json").read_text())
    Path("model/prismify.json").write_text(json.dumps(manifest | {"source": ORIGINS[origin]}))
    (here / "net.py").write_text("open('ran', 'w').close()\n" + NET)
    code, said = run("train", write_recipe("distillation", model={"source": "model"}))
    assert code == 1
    assert "unexpected" not in said
    assert not (here / "ran").exists()


@pytest.mark.parametrize("command", ["evaluate", "reconstruct", "bench", "scan"])
def test_every_command_takes_trust_for_a_folder_that_code_builds(here: Path, run: Any, command: str) -> None:
    code, said = run("convert", "net.py:Net", "-o", "model")
    assert code == 0, said
    Path("model/net.py").write_text("open('ran', 'w').close()\n" + NET)
    words = {
        "evaluate": ["model", "--data", "images"],
        "reconstruct": ["model", "images", "-o", "out"],
        "bench": ["model", "--seconds", "0.01"],
        "scan": ["model"],
    }[command]
    code, said = run(command, *words)
    assert code == 1
    assert "model is built by net.py:Net, which runs Python code: if you trust it, add --trust-code" in said
    assert not Path("ran").exists()
    code, said = run(command, *words, "--trust-code")
    assert code == 0, said
    assert Path("ran").exists()


@pytest.mark.parametrize(
    "reference", ["torchvision.models:resnet18", "timm.models.resnet:resnet18", "torch.nn:Identity"]
)
def test_classes_and_factories_of_known_libraries_need_no_trust(reference: str) -> None:
    from prismify.checkpoint import open_source

    assert open_source(reference, written="a recipe")


@pytest.mark.parametrize(
    "reference",
    [
        "torchvision.datasets.utils:download_url",
        "torchvision.models.resnet:torch.hub.load",
        "timm.models:load_checkpoint",
        "torch.hub:load",
        "torch.fx:GraphModule",
        "diffusers.utils:load_image",
    ],
)
def test_other_functions_of_known_libraries_do(reference: str) -> None:
    from prismify.checkpoint import open_source

    with pytest.raises(prismify.PrismifyError, match="which runs Python code"):
        open_source(reference, written="a recipe")


@pytest.mark.parametrize(
    "reference", ["os:system", "subprocess:Popen", "builtins:exec", "net:os.system", "net.py:os.system"]
)
def test_what_is_pythons_own_is_not_called_whoever_names_it(here: Path, run: Any, reference: str) -> None:
    (here / "net.py").write_text("import os\n" + NET)
    code, said = run("scan", reference, "--arg", "command=touch ran", "--arg", 'args="touch ran"')
    assert code == 1
    assert "of the standard library, which builds no model: it is refused" in said
    assert not (here / "ran").exists()
