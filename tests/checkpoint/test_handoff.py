"""A recipe is written only for a model that `train` could run, and else the report says why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from prismify.cli.main import app
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from typer.testing import CliRunner

import prismify


def layers(first: int = 3, kind: type[nn.Module] = nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(*(kind(a, b, 3, padding=1) for a, b in ((first, 16), (16, 16), (16, 3))))


class Encoder(nn.Module):
    """An autoencoder by halves: what encode and decode do besides is the test's."""

    def __init__(self, first: int = 3) -> None:
        super().__init__()
        self.enter, self.leave = layers(first), layers()
        self.moments = nn.Conv2d(3, 6, 1)

    def encode(self, x: Tensor) -> Any:
        return self.moments(self.enter(x)).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        return self.leave(z)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.moments(self.enter(x))[:, :3])
        return y


class Mixed(Encoder):
    def encode(self, x: Tensor) -> Any:
        mean, spread = super().encode(x)
        return mean, spread, spread.mean()


class Drawn(Encoder):
    def encode(self, x: Tensor) -> Any:
        mean, spread = super().encode(x)
        return mean, spread, mean + (0.5 * spread).exp() * torch.randn_like(mean)


class Larger(Encoder):
    def decode(self, z: Tensor) -> Any:
        return nn.functional.interpolate(super().decode(z), scale_factor=2)


class Conditioned(Encoder):
    def encode(self, x: Tensor, label: Tensor) -> Any:
        return super().encode(x + label)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()

    def forward(self, picture: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.inner(picture * mask)
        return y


class Choosing(nn.Module):
    """Reads a value, so that only real tensors run it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.inner(x)
        return {"count": (y > 0).sum(), "image": y if float(y.sum()) > 0 else -y}


def image(channels: int = 3) -> tuple[Tensor]:
    return (torch.randn(1, channels, 16, 16),)


def program(model: nn.Module) -> Any:
    return torch.export.export(model.eval(), image())


TRAINED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "mean and log-variance": (Encoder, image(), "autoencoder"),
    "a sample beside its moments": (Drawn, image(), "autoencoder"),
    "grey": (lambda: layers(1), image(1), "distillation"),
    "layers": (layers, image(), "distillation"),
    "wrapped": (lambda: nn.DataParallel(layers()), image(), "distillation"),
    "compiled": (lambda: torch.compile(layers(), backend="eager"), image(), "distillation"),
    "values read": (Choosing, image(), "distillation"),
}
NONE: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "an exported program": (lambda: program(layers()), None, "an exported program has no training graph; to train it"),
    "a graph": (lambda: fx.symbolic_trace(layers()), image(), "an exported program has no training graph"),
    "a part that is a graph": (
        lambda: nn.Sequential(fx.symbolic_trace(layers())),
        image(),
        "an exported program has no training graph",
    ),
    "unclear latents": (Mixed, image(), "Mixed.encode returns a tuple ((1, 3, 16, 16), (1, 3, 16, 16), ()), in which"),
    "another size": (Larger, image(), "it makes (3, 32, 32) of images of (3, 16, 16), and is no autoencoder of images"),
    "a label": (Conditioned, image(), "its encode and decode do not run on an image alone (TypeError: "),
    "four channels": (lambda: layers(4), image(4), "and recipes give a model images of 1 or 3 channels"),
    "signals": (
        lambda: layers(3, nn.Conv1d),
        (torch.randn(1, 3, 32),),
        "it takes arg0 1×3×32, and recipes give a model images of 1 or 3 channels",
    ),
    "video": (
        lambda: layers(3, nn.Conv3d),
        (torch.randn(1, 3, 4, 16, 16),),
        "and recipes give a model images of 1 or 3 channels",
    ),
    "two inputs": (Two, (*image(), torch.ones(1, 3, 16, 16)), "its forward needs picture, mask, and recipes give"),
}


def saved(folder: Path, make: Callable[[], Any], args: Any) -> list[str]:
    """Convert and save; the notes of the report."""
    model = make()
    converted = prismify.convert(model.eval() if isinstance(model, nn.Module) else model, args=args)
    prismify.save(converted, folder)
    notes: list[str] = json.loads((folder / "report.json").read_text())["notes"]
    assert all(f"> {note}" in (folder / "report.md").read_text() for note in notes)
    return notes


@pytest.mark.parametrize("name", TRAINED)
def test_what_can_be_trained_gets_its_recipe(name: str, tmp_path: Path) -> None:
    make, args, wanted = TRAINED[name]
    notes = saved(tmp_path / "out", make, args)
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["recipe"] == wanted
    assert not [note for note in notes if "No recipe" in note]


@pytest.mark.parametrize("name", NONE)
def test_what_cannot_be_trained_gets_none_and_a_line(name: str, tmp_path: Path) -> None:
    make, args, because = NONE[name]
    notes = saved(tmp_path / "out", make, args)
    assert not (tmp_path / "out" / "recipe.yaml").exists()
    (note,) = [note for note in notes if note.startswith("No recipe is written: ")]
    assert because in note
    assert "\n" not in note


HALVES = """
import torch
from torch import nn

class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
        self.up = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 2, 2))
    def encode(self, x):
        return self.down(x)
    def decode(self, z):
        return self.up(z)
    def forward(self, x):
        return self.decode(self.encode(x))

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Linear(1, 16)
        self.enter, self.leave = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
    def forward(self, sample, timestep):
        time = self.time(timestep.float().reshape(-1, 1) / 1000)
        return self.leave(torch.relu(self.enter(sample) + time[:, :, None, None]))
"""


@pytest.mark.parametrize(
    ("name", "recipe", "inputs"),
    [("Halves", "distillation", ["--input", "1,3,8,8"]), ("Denoiser", "diffusion", ["--input", "sample=1,3,8,8"])],
)
def test_what_comes_near_its_original_starts_there(name: str, recipe: str, inputs: list[str], tmp_path: Path) -> None:
    source = tmp_path / "nets.py"
    source.write_text(HALVES)
    scope: dict[str, Any] = {}
    exec(HALVES, scope)
    weights = tmp_path / "weights.safetensors"
    save_file(scope[name]().state_dict(), weights)
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8))
    steps = ["train.steps=1", "train.batch_size=2", "data.validation=2", "log.tensorboard=false", "train.device=cpu"]
    sets = [f"data.path={tmp_path / 'images.npz'}", "log.images=0", *steps]
    out = tmp_path / "out"
    for words in (
        ["convert", weights, "--model", f"{source}:{name}", *inputs, "--policy", "narrow", "-o", out],
        ["train", out / "recipe.yaml", "--trust-code", *(word for change in sets for word in ("--set", change))],
    ):
        ran = CliRunner().invoke(app, [str(word) for word in words])
        assert ran.exit_code == 0, ran.output
    assert yaml.safe_load((out / "recipe.yaml").read_text())["recipe"] == recipe
    assert "replaced layers start nearest to the teacher's" in ran.output + ran.stderr
    fresh = tmp_path / "fresh"  # nothing to start near to
    words = ["convert", f"{source}:{name}", *inputs, "--policy", "narrow", "-o", fresh]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    content = yaml.safe_load((fresh / "recipe.yaml").read_text())
    assert content["recipe"] == {"Halves": "autoencoder", "Denoiser": "diffusion"}[name]
    assert not content.get("distil")


PARTS = """
import torch
from torch import fx, nn

def layers():
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 16), (16, 16), (16, 3))))

def wrapped():
    return nn.DataParallel(layers())

def scripted():
    return nn.Sequential(layers(), torch.jit.script(nn.Conv2d(3, 3, 1)))

def graph():
    return fx.symbolic_trace(layers())
"""


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["wrapped", "scripted", "graph"])
def test_a_recipe_that_was_written_runs(name: str, tmp_path: Path) -> None:
    source = tmp_path / "parts.py"
    source.write_text(PARTS)
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8))
    steps = ["train.steps=1", "train.batch_size=2", "data.validation=2", "log.tensorboard=false", "train.device=cpu"]
    sets = [f"data.path={tmp_path / 'images.npz'}", f"teacher={source}:{name}", *steps]
    out = tmp_path / "out"
    for words in (
        ["convert", f"{source}:{name}", "--input", "1,3,8,8", "-o", out],
        ["train", out / "recipe.yaml", "--trust-code", *(word for change in sets for word in ("--set", change))],
    ):
        ran = CliRunner().invoke(app, [str(word) for word in words])
        assert ran.exit_code == 0, ran.output
    assert "prismify train recipe.yaml --trust-code --set" in (out / "recipe.yaml").read_text()
    assert (out / "runs" / "distillation" / "model").is_dir()
