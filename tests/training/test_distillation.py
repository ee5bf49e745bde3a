"""Distillation: who learns from whom, what of both is run, what cannot be matched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prismify
from prismify.errors import RecipeError
from prismify.training.losses import Answering, Remembering, asked_of_student, asked_of_teacher
from prismify.training.schema import DistillationLoss
from tests.training.conftest import Recipe, Train, records, small_autoencoder


def distillation(content: dict[str, Any], **sections: Any) -> dict[str, Any]:
    content = {**content, "recipe": "distillation", "loss": {}}
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values} if isinstance(content.get(name), dict) else values
    return content


@pytest.fixture
def taught(tmp_path: Path) -> tuple[Path, Path]:
    """A teacher's diffusers folder, and the folder it was converted to."""
    from prismify.checkpoint import open_source

    small_autoencoder().save_pretrained(tmp_path / "teacher")
    source = open_source(str(tmp_path / "teacher"))
    prismify.save(prismify.convert(source.build()), tmp_path / "student", source=source)
    return tmp_path / "teacher", tmp_path / "student"


def test_distillation_finds_its_teacher_and_learns_from_it(
    recipe: Recipe, train: Train, taught: tuple[Path, Path]
) -> None:
    teacher, student = taught
    content = distillation(
        recipe(train={"steps": 40}, log={"every": 1, "validate_every": 40, "tensorboard": False}),
        model={"source": str(student)},
        loss={"features": 1.0, "image": 0.1},
    )
    folder, _ = train(content)
    assert json.loads((folder / "run.json").read_text())["teacher"] == str(teacher)
    rows = records(folder)
    assert {"output", "latent", "features", "image", "total"} <= set(rows[0])
    for term in ("output", "latent", "features"):
        assert rows[-1][term] < rows[0][term], term
    assert {"psnr", "teacher_psnr", "error_to_teacher"} <= set(records(folder, "validation")[0])


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(
    recipe: Recipe, train: Train, taught: tuple[Path, Path]
) -> None:
    teacher, _ = taught
    content = distillation(recipe(train={"steps": 1}), model={"source": str(teacher)}, teacher={"source": str(teacher)})
    folder, _ = train(content)
    assert records(folder)[0]["total"] == pytest.approx(0, abs=1e-10)


def test_distillation_of_a_model_that_is_no_autoencoder(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), "
        "nn.Conv2d(16, 16, 3), nn.Conv2d(16, 10, 5), nn.Flatten())\n"
    )
    source = {"source": f"{tmp_path / 'net.py'}:make"}
    content = distillation(
        recipe(train={"steps": 3}), model={**source, "convert": {"name": "paper"}}, teacher=source,
        loss={"features": 0.5},
    )  # fmt: skip
    folder, _ = train(content)
    assert set(records(folder, "validation")[0]) == {"step", "kind", "error_to_teacher"}
    assert "features" in records(folder)[0]


def test_a_teacher_that_does_not_fit_is_one_line(
    recipe: Recipe, train: Train, taught: tuple[Path, Path], converted: Path
) -> None:
    _teacher, student = taught
    with pytest.raises(RecipeError, match=r"was made from a python object, which has no path: set teacher.source"):
        train(distillation(recipe(), model={"source": str(converted)}))
    with pytest.raises(RecipeError, match=r"only one of them has encode and decode"):
        train(distillation(recipe(), model={"source": str(student)}, teacher={"source": "torchvision:resnet18"}))
    missing = {"features": 1.0, "feature_layers": ["nothing.like.this"]}
    with pytest.raises(RecipeError, match=r"share no layer that is nothing.like.this"):
        train(distillation(recipe(), model={"source": str(student)}, loss=missing))


class Halves(nn.Module):
    """An autoencoder that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 3, 2, 2)
        self.encoded = self.decoded = 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        latents: torch.Tensor = self.down(x)
        return latents

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        self.decoded += 1
        images: torch.Tensor = self.up(z)
        return images


@pytest.mark.parametrize(
    ("loss", "teacher_runs", "student_runs", "answered"),
    [
        ({}, (1, 1), (1, 1), {"latent", "output"}),
        ({"output": 0}, (1, 0), (1, 0), {"latent"}),
        ({"latent": 0}, (1, 1), (0, 1), {"output"}),
        ({"output": 0, "image": 1}, (1, 0), (1, 1), {"latent", "image"}),
        ({"output": 0, "latent": 0, "image": 1}, (0, 0), (1, 1), {"image"}),
        ({"image": 1}, (1, 1), (1, 2), {"latent", "output", "image"}),
    ],
)
def test_only_what_counts_is_run(
    loss: dict[str, float], teacher_runs: tuple[int, int], student_runs: tuple[int, int], answered: set[str]
) -> None:
    terms = DistillationLoss(**loss)
    teacher, student = Halves(), Halves()
    x = torch.rand(2, 3, 8, 8)
    taught = Remembering(Answering(teacher, (), asked_of_teacher(terms)), 0)(x)
    said = Answering(student, (), asked_of_student(terms))(x, taught.get("latent"))
    assert (teacher.encoded, teacher.decoded) == teacher_runs
    assert (student.encoded, student.decoded) == student_runs
    assert said.keys() == answered


def test_a_decoder_learns_while_its_encoder_stays(recipe: Recipe, train: Train, taught: tuple[Path, Path]) -> None:
    _teacher, student = taught
    before = prismify.load(str(student)).state_dict()
    content = distillation(
        recipe(train={"steps": 2, "ema": None}), model={"source": str(student)}, loss={"latent": 0},
        blocks={"share": 0.5, "own_inputs": 0.0},
    )  # fmt: skip
    folder, _ = train(content)
    changed = {
        name.split(".")[0]
        for name, value in prismify.load(str(folder / "model")).state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert not [name for name in changed if "encoder" in name or name == "quant_conv"]
    assert "latent" not in records(folder)[-1]


def test_no_pictures_are_drawn_where_none_are_wanted(recipe: Recipe, train: Train, taught: tuple[Path, Path]) -> None:
    quiet = {"images": 0, "validate_every": 1, "tensorboard": False}
    for content in (
        distillation(recipe(train={"steps": 1}, log=quiet), model={"source": str(taught[1])}),
        recipe(train={"steps": 1}, log=quiet),
    ):
        folder, _ = train({**content, "output": f"{content['output']}-{content['recipe']}"})
        assert "psnr" in records(folder, "validation")[0]
        assert not list((folder / "images").glob("*.png"))


def test_a_loss_of_autoencoders_alone_is_refused_for_others(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 3, 3)\n")
    source = {"source": f"{tmp_path / 'net.py'}:make"}
    with pytest.raises(RecipeError, match=r"Conv2d has neither encode nor decode.*set output or features"):
        train(distillation(recipe(), model=source, teacher=source, loss={"output": 0, "image": 1}))
