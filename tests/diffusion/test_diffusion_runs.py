"""Denoisers train, go on where they were stopped, and are refused in one line where they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prismify.recipes import carry_out
from safetensors.torch import load_file

from prismify.diffusion.making import Wanted, make_pictures
from prismify.diffusion.opening import open_denoiser
from prismify.errors import PrismifyError
from prismify.training.engine import Event
from prismify.training.recipe import read_recipe, recipe_from

Recipe = Callable[..., dict[str, Any]]


def trained(content: dict[str, Any], watch: Callable[[Event], None] = lambda event: None) -> Path:
    return carry_out(recipe_from(content, "test"), watch)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_a_run_ends_with_a_model_that_samples(recipe: Recipe, prediction: str) -> None:
    folder = trained(recipe(noise={"prediction": prediction}, loss={"weighting": "min_snr"}))
    record = json.loads((folder / "model" / "denoising.json").read_text())
    assert (record["shape"], record["classes"], record["null"]) == ([3, 8, 8], ["a", "b"], 2)
    with Image.open(folder / "images" / "step-00000004.png") as sheet:
        assert sheet.size == (2 * 10 + 2, 2 * 10 + 2)  # four pictures of 8x8
    for name in (folder, folder / "model", folder / "best"):
        opened = open_denoiser(str(name))
        batches = list(make_pictures(opened, Wanted(count=3, steps=2, guidance=2.0, batch_size=2)))
        assert [len(pixels) for pixels, _ in batches] == [2, 1]
        assert [label for _, labels in batches for label in labels] == ["a", "b", "a"]


def test_a_stopped_run_goes_on_to_the_last_bit(recipe: Recipe, tmp_path: Path) -> None:
    content = recipe(train={"steps": 6}, model={"arguments": {**recipe()["model"]["arguments"], "dropout": 0.2}})
    whole = weights(trained({**content, "output": str(tmp_path / "whole")}))

    def stop(event: Event) -> None:
        if event.kind == "step" and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(content, stop)
    again = weights(trained(content))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_batch_may_be_split_into_parts(recipe: Recipe, tmp_path: Path) -> None:
    errors: dict[int, list[float]] = {1: [], 2: []}
    for parts, found in errors.items():

        def note(event: Event, found: list[float] = found) -> None:
            found += [event.values["error"]] if event.kind == "step" else []

        trained(recipe(output=str(tmp_path / str(parts)), train={"accumulation": parts}), note)
    assert len(errors[1]) == 4
    assert errors[2] == pytest.approx(errors[1], rel=1e-3)


def test_training_helps(recipe: Recipe) -> None:
    told: list[Event] = []
    trained(recipe(train={"steps": 60, "learning_rate": 1e-2}, log={"validate_every": 20, "images": 0}), told.append)
    errors = [event.values["error"] for event in told if event.kind == "measured"]
    assert errors[-1] < 0.75 * errors[0]


def test_a_size_of_another_aspect(recipe: Recipe) -> None:
    opened = open_denoiser(str(trained(recipe())))
    (pixels, _), *_ = make_pictures(opened, Wanted(count=1, steps=1, size=(16, 4)))
    assert pixels.shape == (1, 4, 16, 3)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"data": {"size": 7}}, "UNet2DModel .*7x7"),
    "channels": ({"data": {"channels": 1}}, "UNet2DModel takes no 1x8x8 at a time"),
    "no class given": ({"condition": {"kind": "none"}}, "or condition.kind=class"),
    "too few rows": (
        {"model": {"arguments": {"num_class_embeds": 2}}},
        "has a table of 2 classes, all of them in use: guidance needs one more for none, or set condition.dropout=0",
    ),
    "label out of range": ({"model": {"arguments": {"num_class_embeds": 1}}}, "has 2 classes, and the UNet2DModel a"),
    "no classes": ({"data": {"select": "a/*", "path": "a"}}, "has no classes: they are the names of its folders"),
    "no denoiser": ({"model": {"source": "torchvision:resnet18", "arguments": {}}}, "takes x alone, and no time"),
    "sampler": ({"noise": {"prediction": "flow"}, "sampling": {"sampler": "ddim"}}, "a flow is sampled by euler"),
    "betas": ({"noise": {"beta_start": 0.5, "beta_end": 0.1}}, "beta_start 0.5 <= beta_end 0.1 < 1 must hold"),
    "weighting": ({"loss": {"weighting": "min_snr", "distance": "l1"}}, "min_snr weights the squared error"),
    "autoencoder": ({"autoencoder": {"source": "diffusers:UNet2DModel"}}, "autoencoder: UNet2DModel has no encode"),
    "random crops": ({"autoencoder": {"source": "cifar10-ae-64"}, "data": {"crop": "random"}}, "data.crop=center"),
    "guidance": (
        {"condition": {"dropout": 0.0}, "sampling": {"guidance": 2.0}},
        "sampling.guidance goes away from what a model says when told nothing: set condition.dropout",
    ),
    "nan": ({"train": {"learning_rate": float("nan")}}, "learning_rate nan must be a positive number"),
    "diverges": ({"train": {"learning_rate": 1e30, "steps": 9}}, "diverged at step .*: lower|diverged at step"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_train_is_one_line(recipe: Recipe, pictures: Path, name: str) -> None:
    changes, message = WRONG[name]
    content = recipe()
    for section, values in changes.items():
        for key, value in values.items():
            if isinstance(value, dict):
                values = {**values, key: {**content[section].get(key, {}), **value} if value else {}}
        content[section] = {**content.get(section, {}), **values}
    if content["data"]["path"] == "a":
        content["data"] |= {"path": str(pictures / "a"), "select": None}
    with pytest.raises(PrismifyError, match=message) as caught:
        trained(content)
    assert "\n" not in str(caught.value)


def test_pixels_that_are_not_numbers_never_enter(recipe: Recipe, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    content = recipe(data={"path": str(tmp_path / "nan.tiff"), "validation": 0}, condition={"kind": "none"})
    with pytest.raises(PrismifyError, match=r"nan.tiff"):
        trained(content)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"label": "c"}, "class 'c' is not one of a, b, nor a number from 0 to 1"),
        ({"label": "2"}, "class '2' is not one of a, b"),
        ({"size": (9, 7)}, "size 9x7: UNet2DModel does not take it"),
        ({"steps": 2000}, "steps 2000 must lie between 1 and the 1000 of the training"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(recipe: Recipe, wanted: dict[str, Any], message: str) -> None:
    opened = open_denoiser(str(trained(recipe(train={"steps": 1}))))
    with pytest.raises(PrismifyError, match=message) as caught:
        list(make_pictures(opened, Wanted(**{"count": 1, "steps": 1, **wanted})))
    assert "\n" not in str(caught.value)


def test_a_refused_sample_leaves_earlier_ones_as_they_are(
    recipe: Recipe, tmp_path: Path, command: Callable[..., Any]
) -> None:
    folder = trained(recipe(train={"steps": 1}))
    words = ["sample", folder, "-n", "2", "--steps", "1", "-o", tmp_path / "made"]
    assert command(*words).code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()}
    for wrong in (["--class", "c"], ["--size", "9x7"], ["--steps", "5000"], ["--sampler", "heun"], ["--prompt", "a"]):
        ran = command(*words, *wrong)
        assert ran.code == 1
        assert len(ran.err.strip().splitlines()) == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()} == before
    assert command(*words[:-1], tmp_path / "new", "--class", "c").code == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_no_run_trained_is_told(tmp_path: Path) -> None:
    with pytest.raises(PrismifyError, match="does not say how its model was trained to denoise"):
        open_denoiser("cifar10-ae-64")
    with pytest.raises(PrismifyError, match="no such folder"):
        open_denoiser(str(tmp_path / "nowhere"))
    (tmp_path / "denoising.json").write_text('{"format_version": 9}')
    with pytest.raises(PrismifyError, match="has format version 9"):
        open_denoiser(str(tmp_path))
    (tmp_path / "denoising.json").write_text('{"format_version": 1, "noise": {}, "shape": [3, 8]}')
    with pytest.raises(PrismifyError, match=r"shape \[3, 8\] is not \(channels, height, width\)"):
        open_denoiser(str(tmp_path))


def test_what_was_trained_goes_on_as_it_was_trained(recipe: Recipe, pictures: Path) -> None:
    noise = {"prediction": "v", "schedule": "squaredcos_cap_v2"}
    folder = trained(recipe(noise=noise, model={"zero": ["*.conv2"]}))
    again = read_recipe(folder / "model" / "recipe.yaml", [f"data.path={pictures}", "train.steps=6"])
    first = recipe_from(recipe(noise=noise), "test")
    assert (again.noise, again.condition, again.train.ema) == (first.noise, first.condition, first.train.ema)
    assert (again.model.convert, again.model.zero) == (None, ())
    assert Path(again.output) == folder / "model" / "runs" / "run"
    start = weights(folder)
    after = load_file(carry_out(again) / "model" / "model.safetensors")
    assert 0 < max(float((after[n] - start[n]).abs().max()) for n in start) < 0.1
