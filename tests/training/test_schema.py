"""Recipes: every key is checked, paths are found, and what prismify ships is valid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prismify.errors import RecipeError
from prismify.training.recipe import read_recipe, recipe_data, recipe_from, recipe_yaml, shipped_configs
from prismify.training.schema import AutoencoderRecipe

MINIMAL = """
recipe: autoencoder
model: converted
data: {path: images}
train: {learning_rate: 1e-3, steps: 10}
output: run
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", ["demo", "cifar10-paper", "cifar10-fast", "imagenet256"])
def test_every_shipped_config_is_valid(name: str) -> None:
    assert name in shipped_configs()
    recipe = read_recipe(name)
    assert recipe.recipe == "autoencoder"
    assert recipe.model.convert is not None


@pytest.mark.parametrize("name", ["mnist-ddpm", "cifar10-ldm", "single-image"])
def test_every_shipped_config_of_denoisers_is_valid(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.recipe == "diffusion"
    assert recipe.model.convert is not None


def test_no_shipped_config_is_untested() -> None:
    assert set(shipped_configs()) == {
        "demo",
        "cifar10-paper",
        "cifar10-fast",
        "imagenet256",
        "distil",
        "mnist-ddpm",
        "cifar10-ldm",
        "single-image",
        "search",
    }


def test_the_shipped_search_is_valid() -> None:
    recipe = read_recipe("search", ["candidates.27 weights=null"])
    assert recipe.recipe == "search"
    assert "27 weights" not in recipe.policies
    assert recipe.policies["tucker 4"].options == {"rank": 4}
    with pytest.raises(RecipeError, match="candidates: name at least one"):
        recipe_from(
            {
                "recipe": "search",
                "model": {"source": "m"},
                "data": {},
                "train": {"steps": 1, "learning_rate": 1},
                "output": "o",
                "candidates": {"none": None},
            },
            "recipe",
        )


def test_the_papers_rate_is_the_papers() -> None:
    train = read_recipe("cifar10-paper").train
    assert train.rate == pytest.approx(1e-7 * 2048)
    assert (train.batch_size, train.accumulation, train.epochs) == (2048, 2, 150)


def test_paths_are_looked_up_from_the_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(file)
    assert recipe.model.source == str(tmp_path / "converted")
    assert recipe.data.path == str(tmp_path / "images")
    assert recipe.output == str(tmp_path / "run")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    changed = read_recipe(file, ["data.path=mine", "model=net.py:make", "output=../there"])
    assert changed.data.path == str(tmp_path / "here" / "mine")
    assert changed.model.source == f"{tmp_path / 'here' / 'net.py'}:make"
    assert read_recipe(file, ["model=timm:resnet18"]).model.source == "timm:resnet18"
    assert read_recipe(file, ["model=cifar10-ae-64"]).model.source == "cifar10-ae-64"


def test_values_are_set_by_dotted_keys(file: Path) -> None:
    sets = ["train.batch_size=64", "train.rates.kernel=4", "loss.discriminator={layers: 2}", "train.ema=null"]
    recipe = read_recipe(file, sets)
    assert isinstance(recipe, AutoencoderRecipe)
    assert (recipe.train.batch_size, recipe.train.rates.kernel, recipe.train.ema) == (64, 4.0, None)
    assert recipe.loss.discriminator.layers == 2
    assert recipe.train.learning_rate == 1e-3


def test_a_mapping_is_merged_and_an_empty_one_empties() -> None:
    own = read_recipe("cifar10-fast").model.arguments
    assert read_recipe("cifar10-fast", ["model.arguments={latent_channels: 4}"]).model.arguments == {
        **own,
        "latent_channels": 4,
    }
    changed = read_recipe("cifar10-fast", ["model=cifar10-ae-64", "model.arguments={}"])
    assert (changed.model.source, changed.model.arguments) == ("cifar10-ae-64", {})
    changed = read_recipe("cifar10-fast", ["model.arguments={}", "model.arguments.latent_channels=4"])
    assert changed.model.arguments == {"latent_channels": 4}


def test_a_recipe_written_out_reads_back_the_same(file: Path, tmp_path: Path) -> None:
    recipe = read_recipe(file)
    (tmp_path / "full.yaml").write_text(recipe_yaml(recipe))
    assert read_recipe(tmp_path / "full.yaml") == recipe
    assert recipe_from(recipe_data(recipe), "again") == recipe


WRONG = {
    "unknown key": (
        ["train.learing_rate=1"],
        "train: unknown field 'learing_rate'; known are accumulation, base_learning_rate, batch_size",
    ),
    "unknown section": (["optimizer.name=adam"], "unknown field 'optimizer'; known are checkpoint, data, log, loss"),
    "unknown recipe": (["recipe=gan"], "recipe 'gan' is not one of autoencoder, distillation, diffusion"),
    "earlier denoiser": (["recipe=latent_diffusion"], "recipe latent_diffusion was a sketch of recipe diffusion"),
    "wrong type": (["train.batch_size=many"], "batch_size 'many' is not of type int"),
    "wrong word": (["loss.reconstruction=l3"], "reconstruction 'l3' is not one of l2, l1"),
    "two rates": (["train.base_learning_rate=1e-6"], "set one of learning_rate and base_learning_rate"),
    "no length": (["train.steps=null"], "train: set one of steps and epochs"),
    "negative": (["train.batch_size=0"], "train: batch_size 0 must be at least 1"),
    "range": (["data.range=[1, 0]"], "range [1.0, 0.0] must be [black, white]"),
    "no equals": (["train.steps"], "--set 'train.steps' is not KEY=VALUE"),
    "no yaml": (["train.steps=[1"], "--set 'train.steps=[1': the value is not YAML"),
    "policy": (["model.convert={name: papers}"], "papers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line(file: Path, name: str) -> None:
    sets, message = WRONG[name]
    with pytest.raises(RecipeError) as caught:
        read_recipe(file, sets)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere.yaml: no such file, and no recipe that prismify ships"):
        read_recipe("nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match=r"a recipe is a table of keys, this is a list"):
        read_recipe(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [\nb: }")
    with pytest.raises(RecipeError, match=r"not YAML in line 2"):
        read_recipe(tmp_path / "broken.yaml")
    (tmp_path / "less.yaml").write_text(yaml.safe_dump({"recipe": "autoencoder", "output": "x"}))
    with pytest.raises(RecipeError, match=r"field 'model' is missing"):
        read_recipe(tmp_path / "less.yaml")
