"""A denoiser learns from another: the terms, the adapters, and a real trained model taught to its conversion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from prismify.recipes import carry_out

import prismify
from prismify.diffusion import Denoiser
from prismify.diffusion.teaching import (
    Learner,
    error_over_power,
    make_adapters,
    taught_layers,
    teaching_terms,
    without_outliers,
)
from prismify.errors import PrismifyError
from prismify.plan import Policy
from prismify.training.engine import Event, read_state
from prismify.training.recipe import recipe_from
from prismify.training.schema import Teaching

from .conftest import unet

NET = Path(__file__).parent / "nets" / "mnist_ddpm.py"
Recipe = Callable[..., dict[str, Any]]
INPUTS = (torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 1]))


def test_a_model_that_learns_from_itself_has_nothing_to_learn() -> None:
    teacher = Denoiser(unet().eval())
    layers = ("down_blocks.0.resnets.0", "mid_block.attentions.0", "up_blocks.1.resnets.0")
    kept, adapters = make_adapters(teacher, teacher, layers, INPUTS)
    assert kept == layers
    with torch.no_grad():
        said, taught = Learner(teacher, kept, adapters)(*INPUTS), Learner(teacher, kept)(*INPUTS)
    terms = teaching_terms(said, taught, Teaching(most_deviations=None))
    assert set(terms) == {"output", "features"}
    assert all(float(term) < 1e-10 for term in terms.values())


def test_terms_are_shares_of_the_teachers_power() -> None:
    taught = {"output": 3 * torch.randn(4, 2, 8, 8), "features.a": 1e3 * torch.randn(4, 5, 8, 8)}
    nothing = {name: torch.zeros_like(value) for name, value in taught.items()}
    assert {n: float(v) for n, v in teaching_terms(nothing, taught, Teaching()).items()} == pytest.approx(
        {"output": 1.0, "features": 1.0}, abs=0.01
    )
    half = {name: value / 2 for name, value in taught.items()}
    assert float(error_over_power(half["output"], taught["output"])) == pytest.approx(0.25)
    assert "output" not in teaching_terms(half, taught, Teaching(output=0.0))


def test_outliers_are_cut() -> None:
    features = torch.randn(2, 10, 100)
    features[0, 3, 7] = 1e4
    cut = without_outliers(features, 6.0)
    assert float(cut.max()) < 2100
    assert torch.equal(cut[features < 100], features[features < 100])
    assert without_outliers(features, None) is features


def test_modules_that_hold_replaced_layers_are_matched_through_adapters_of_their_width() -> None:
    teacher = unet()
    student = prismify.convert(unet(), policy=Policy(name="volumes"))
    layers = taught_layers(student, teacher, Teaching())
    assert "down_blocks.0.resnets.0" in layers
    assert "up_blocks.0.resnets.1" in layers
    assert not any(name.endswith("conv1") for name in layers)
    kept, adapters = make_adapters(Denoiser(student), Denoiser(teacher), layers, INPUTS)
    assert kept
    assert len(adapters) == len(kept)
    wide = unet(block_out_channels=[32, 32])
    kept, adapters = make_adapters(Denoiser(student), Denoiser(wide), layers, INPUTS)
    said, taught = Learner(Denoiser(student), kept, adapters)(*INPUTS), Learner(Denoiser(wide), kept)(*INPUTS)
    assert all(said[name].shape == taught[name].shape for name in taught)
    with pytest.raises(PrismifyError, match="share no modules named nowhere"):
        taught_layers(student, teacher, Teaching(feature_layers=("nowhere*",)))


def test_a_stopped_distillation_goes_on_to_the_last_bit(recipe: Recipe, tmp_path: Path) -> None:
    teacher = {"source": "diffusers:UNet2DModel", "arguments": recipe()["model"]["arguments"]}
    content = recipe(teacher=teacher, distil={"task": 0.1}, train={"steps": 5})
    whole = carry_out(recipe_from({**content, "output": str(tmp_path / "whole")}, "test"))

    def stop(event: Event) -> None:
        if event.kind == "step" and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(recipe_from(content, "test"), stop)
    again = carry_out(recipe_from(content, "test"))
    one, two = (read_state(folder / "state", 5)["parts"] for folder in (whole, again))
    assert set(one) == {"model", "average", "optimizer", "adapters"}
    for part in ("model", "average", "adapters"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])
    assert not any("adapter" in name for name in one["model"])


def test_a_narrow_student_starts_near_its_teacher(recipe: Recipe, tmp_path: Path) -> None:
    arguments = recipe()["model"]["arguments"]
    teacher = {"source": "diffusers:UNet2DModel", "arguments": arguments}
    narrow = {"model": {**teacher, "convert": {"name": "narrow", "share": 0.75, "min_width": 2}}, "teacher": teacher}
    errors = {}
    for fitted in (0, 16):
        said: list[str] = []
        content = recipe(
            **narrow,
            distil={"features": 0.0, "fitted": fitted},
            train={"steps": 1, "learning_rate": 1e-9, "ema": None},
            output=str(tmp_path / f"fitted-{fitted}"),
        )
        folder = carry_out(recipe_from(content, "test"), lambda event, said=said: said.append(event.text))
        assert any("replaced layers start nearest" in text for text in said) == bool(fitted)
        first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        errors[fitted] = first["output"]
    assert errors[16] < 0.7 * errors[0]


def test_a_teacher_may_make_what_is_learned_from(recipe: Recipe, tmp_path: Path) -> None:
    teacher = carry_out(recipe_from(recipe(output=str(tmp_path / "teacher")), "test"))
    said: list[str] = []
    content = recipe(
        teacher={"source": str(teacher / "model")},
        data={"path": None, "size": None, "kind": "teacher", "validation": 3},
        distil={"samples": 10},
        latents={"batch_size": 4},
    )
    folder = carry_out(recipe_from(content, "test"), lambda event: said.append(event.text))
    assert "10 images from samples of the teacher" in said
    facts = json.loads((folder / "run.json").read_text())
    assert facts["classes"] == ["a", "b"]
    made = {p: p.read_bytes() for p in folder.rglob("shard-*.safetensors")}
    assert len(made) == 2
    for content_of, message in (
        ({"noise": {"prediction": "v"}}, "the teacher was trained with noise.prediction=epsilon, not v: set it so"),
        ({"teacher": None, "distil": None}, "data.kind=teacher takes what a teacher samples: set teacher"),
        ({"autoencoder": {"source": "cifar10-ae-64"}}, "does not say that it makes latents: drop autoencoder"),
    ):
        with pytest.raises(PrismifyError, match=message):
            carry_out(recipe_from({**content, **content_of, "output": str(tmp_path / "other")}, "test"))


def test_a_trained_model_is_converted_taught_by_itself_and_sampled(
    shared_data: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """The whole way of the command line, on a denoiser of digits that somebody trained."""
    from prismify.cli.main import app
    from typer.testing import CliRunner

    def run(*words: object) -> str:
        ran = CliRunner().invoke(app, [str(word) for word in words])
        assert ran.exit_code == 0, ran.output
        return ran.output

    images = np.load(shared_data / "mnist" / "train.npz")["images"][:300]
    np.savez(tmp_path / "digits.npz", images=images)
    weights = shared_data / "ddpm_mnist" / "ddpm_mnist.pt"
    run("convert", weights, "--model", f"{NET}:make", "--policy", "volumes", "-o", tmp_path / "small")
    content = yaml.safe_load((tmp_path / "small" / "recipe.yaml").read_text())
    assert content["recipe"] == "diffusion"
    sets = [f"data.path={tmp_path / 'digits.npz'}", "data.size=28", "distil={}", "train.steps=12", "train.device=cpu",
            "train.batch_size=8", "log.validate_every=4", "log.every=1", "log.images=0", "train.learning_rate=1e-2",
            "train.ema=0.5", "train.warmup_steps=0", f"output={tmp_path / 'run'}"]  # fmt: skip
    run("train", tmp_path / "small" / "recipe.yaml", "--trust-code", *(w for s in sets for w in ("--set", s)))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    apart = [r["error_to_teacher"] for r in records if r["kind"] == "validation"]
    assert apart[-1] < apart[0]
    assert {"output", "features", "error", "total"} <= records[0].keys()
    run("sample", tmp_path / "run", "-n", 2, "--steps", 2, "-o", tmp_path / "made", "--trust-code")
    assert (tmp_path / "made" / "grid.png").is_file()
