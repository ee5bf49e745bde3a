"""The recipe `diffusion` with scales: trained, stopped and taken up again, sampled, and what is refused."""

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
from typer.testing import CliRunner

from prismify.diffusion.making import Wanted, make_pictures
from prismify.diffusion.opening import open_denoiser
from prismify.errors import RecipeError, SourceError
from prismify.metrics.sample_sets import made_samples
from prismify.training.recipe import read_recipe, recipe_from

BALLOONS = Path(__file__).parents[2] / "examples" / "images" / "balloons.png"
SMALL: dict[str, Any] = {
    "recipe": "diffusion",
    "model": {"source": "prismify:SinDDM", "arguments": {"width": 32, "widen_first": True}},
    "scales": {"area": 300, "shortest": [12, 16], "max_pixels": 1200},
    "data": {"path": str(BALLOONS), "validation": 0},
    "noise": {"timesteps": 10, "schedule": "squaredcos_cap_v2"},
    "loss": {"distance": "l1"},
    "train": {"batch_size": 4, "learning_rate": 1e-3, "steps": 6, "device": "cpu", "ema": 0.9},
    "log": {"every": 1, "validate_every": 3, "tensorboard": False, "images": 2},
    "checkpoint": {"every": 2, "keep": 2},
}
Train = Callable[..., tuple[Path, list[Any]]]


def with_changes(sections: dict[str, Any]) -> dict[str, Any]:
    content = dict(SMALL)
    for name, values in sections.items():
        both = isinstance(values, dict) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **values} if both else values
    return content


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """`train("name", section={...})`: the run's folder, and what it told."""

    def run(name: str, watch: Callable[[Any], None] = lambda event: None, **sections: Any) -> tuple[Path, list[Any]]:
        told: list[Any] = []

        def both(event: Any) -> None:
            told.append(event)
            watch(event)

        recipe = recipe_from(with_changes({**sections, "output": str(tmp_path / name)}), "recipe")
        return carry_out(recipe, both), told

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps, converted."""
    folder = tmp_path_factory.mktemp("run") / "run"
    model = {**SMALL["model"], "convert": {"name": "volumes"}}
    carry_out(recipe_from(with_changes({"model": model, "train": {"steps": 2}, "output": str(folder)}), "recipe"))
    return folder


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(train: Train) -> None:
    whole, told = train("whole")
    assert any(event.text.startswith("3 scales, and the times that sampling them starts at: ") for event in told)

    def interrupt(event: Any) -> None:
        if event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("stopped", interrupt)
    stopped, told = train("stopped")
    assert any(event.text == "going on from step 3" for event in told)
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, stopped))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    errors = [
        {r["step"]: r["error"] for r in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}
        for folder in (whole, stopped)
    ]
    assert errors[0] == errors[1]
    assert len(errors[0]) == 6
    assert sorted(p.name for p in (whole / "images").iterdir()) == ["step-00000003.png", "step-00000006.png"]
    assert not (whole / "best").exists()  # one picture leaves none to measure on


def test_parts_add_up_to_the_whole_batch(train: Train) -> None:
    one, _ = train("one", train={"steps": 2})
    two, _ = train("two", train={"steps": 2, "accumulation": 2})
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_what_sampling_needs_lies_beside_the_weights(trained: Path) -> None:
    for folder in (trained, trained / "model"):
        record = json.loads((folder / "denoising.json").read_text())
        assert record["scales"]["sizes"] == [[20, 15], [28, 21], [40, 30]]
        assert len(record["scales"]["distances"]) == 2
        assert record["shape"] == [3, 30, 40]


def test_any_size_from_the_same_seed_at_any_batch_size(trained: Path, tmp_path: Path) -> None:
    from prismify.cli.main import app

    def sampled(name: str, *words: str, source: Path = trained) -> Any:
        done = CliRunner().invoke(app, ["sample", str(source), "-o", str(tmp_path / name), "-n", "3", *words])
        assert done.exit_code == 0, done.stderr
        return np.stack([np.asarray(Image.open(tmp_path / name / f"000{i}.png")).astype(int) for i in range(3)])

    wide = sampled("wide", "--size", "50x20", "--seed", "5")
    assert wide.shape == (3, 20, 50, 3)
    assert np.abs(sampled("again", "--size", "50x20", "--seed", "5", "--batch-size", "2") - wide).max() <= 1
    assert not np.array_equal(sampled("other", "--size", "50x20", "--seed", "6"), wide)
    facts = json.loads((tmp_path / "wide" / "samples.json").read_text())
    assert (facts["sampler"], facts["width"], facts["height"]) == ("coarse to fine", 50, 20)
    assert facts["steps"] > 10
    as_trained = sampled("as-trained", source=trained / "model")
    assert as_trained.shape == (3, 30, 40, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "20"], "--steps is not for a model of one picture"),
        (["--sampler", "ddim"], "--sampler is not for a model of one picture"),
        (["--guidance", "2"], "--guidance needs a model that was trained with classes"),
        (["--class", "1"], "class '1': the model was trained without classes"),
    ],
)
def test_samples_that_are_not_to_be_had(trained: Path, tmp_path: Path, words: list[str], message: str) -> None:
    from prismify.cli.main import app

    done = CliRunner().invoke(app, ["sample", str(trained), "-o", str(tmp_path / "out"), *words])
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"autoencoder": {"source": "vae"}}, "autoencoder does not go with scales: one picture is denoised as pixels"),
        ({"teacher": {"source": "unet"}}, "teacher does not go with scales"),
        ({"noise": {"prediction": "flow"}}, "noise.prediction=flow does not go with scales"),
        ({"condition": {"kind": "class"}}, "condition.kind=class does not go with scales"),
        ({"data": {"validation": 1}}, "data.validation does not go with scales: one picture leaves none to measure on"),
        ({"data": {"size": 32}}, "data.size does not go with scales: the picture keeps its aspect"),
        ({"data": {"flip": True}}, "data.flip does not go with scales"),
        ({"data": {"crop": "random"}}, "data.crop=random does not go with scales"),
        ({"train": {"steps": None, "epochs": 1.0}}, "train.epochs does not go with scales"),
        ({"sampling": {"sampler": "ddim"}}, "sampling.sampler does not go with scales"),
        ({"sampling": {"steps": 20}}, "sampling.steps does not go with scales"),
        ({"sampling": {"guidance": 2.0}}, "sampling.guidance does not go with scales"),
        ({"scales": {"factor": 1.0}}, "scales: factor 1 must be a number above 1"),
        ({"scales": {"shortest": [9, 3]}}, "scales: shortest [9, 3] must be [least, most]"),
        ({"scales": {"area": 0}}, "scales: area 0 must be at least 1"),
    ],
)
def test_recipes_that_one_picture_cannot_follow(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from(with_changes({**sections, "output": "run"}), "recipe")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_models_that_are_not_told_the_scale(train: Train, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="UNet2DModel takes no scale: name a model whose forward does"):
        train(
            "run",
            model={
                "source": "diffusers:UNet2DModel",
                "arguments": {
                    "block_out_channels": [32],
                    "down_block_types": ["DownBlock2D"],
                    "up_block_types": ["UpBlock2D"],
                },
            },
        )
    with pytest.raises(
        RecipeError, match=r"SinDDM takes no 1x30x40 at a time .*: name a model that takes any size, or"
    ):
        train("grey", data={"channels": 1})
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_picture_that_is_too_small(train: Train, tmp_path: Path) -> None:
    Image.new("RGB", (13, 13)).save(tmp_path / "small.png")
    with pytest.raises(RecipeError, match="a picture of 13x13 is too small for two scales"):
        train("run", data={"path": str(tmp_path / "small.png")})


def test_a_record_of_scales_that_do_not_fit_together(trained: Path, tmp_path: Path) -> None:
    record = json.loads((trained / "denoising.json").read_text())
    for change in ({"distances": [0.5]}, {"factor": 1.0}, {"sizes": [[20, 15], [28, 0], [40, 30]]}):
        folder = tmp_path / next(iter(change))
        folder.mkdir()
        (folder / "denoising.json").write_text(json.dumps({**record, "scales": {**record["scales"], **change}}))
        with pytest.raises(SourceError, match="scales are not sizes from coarse to fine with the distances between"):
            open_denoiser(str(folder))


def test_samples_in_python(trained: Path) -> None:
    opened = open_denoiser(str(trained))
    told: list[tuple[int, int]] = []
    wanted = Wanted(count=3, batch_size=2, size=(20, 31))
    made = list(make_pictures(opened, wanted, watch=lambda done, steps: told.append((done, steps))))
    assert [pixels.shape for pixels, _ in made] == [(2, 31, 20, 3), (1, 31, 20, 3)]
    assert told[-1] == (told[-1][1], len(told))
    judged = made_samples(opened, wanted)
    made_by = judged.made_by
    assert (judged.size, made_by["sampler"], made_by["steps"]) == ((20, 31), "coarse to fine", len(told) // 2)


def test_the_shipped_settings_are_sinddms() -> None:
    recipe: Any = read_recipe("single-image")
    assert recipe.model.source == "prismify:SinDDM"
    assert (recipe.noise.timesteps, recipe.noise.schedule, recipe.loss.distance) == (100, "squaredcos_cap_v2", "l1")
    assert (recipe.train.batch_size, recipe.train.rate, recipe.train.ema) == (32, 1e-3, 0.995)
    scales = recipe.scales
    assert (scales.factor, scales.area, scales.shortest, scales.max_pixels) == (1.411, 3110, (42, 55), 50_000)
