"""recipe.yaml: the recipe that fits each kind of model, as YAML that a program can read."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from torch import Tensor, nn

import prismify
from prismify.training.recipe import read_recipe
from prismify.training.schema import SCHEMAS

DOWN_UP: dict[str, Any] = {"layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}


def latent_denoiser() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        **DOWN_UP,
    )


def conv_denoiser() -> nn.Module:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False}
    return diffusers.UNet2DModel(block_out_channels=(16,), **blocks, **DOWN_UP)


class SingleImage(nn.Module):
    """A denoiser written by hand: an image, and a number a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 16), (16, 16), (16, 3)))
        self.time = nn.Linear(1, 16)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y: Tensor = self.leave(self.inner(self.enter(x) + self.time(t.float()[:, None])[..., None, None]))
        return y


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "autoencoder": (
        lambda: diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, sample_size=8),
        "autoencoder",
    ),
    "vector quantised": (
        lambda: diffusers.VQModel(block_out_channels=(16,), norm_num_groups=4, sample_size=8),
        "autoencoder",
    ),
    "convolutional denoiser": (conv_denoiser, "diffusion"),
    "denoiser by hand": (SingleImage, "diffusion"),
    "classifier": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 10, 1)),
        "distillation",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_recipe_fits_the_model(tmp_path: Path, name: str) -> None:
    make, wanted = MODELS[name]
    converted = prismify.convert(make().eval())
    prismify.save(converted, tmp_path / "out")
    text = (tmp_path / "out" / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert recipe["recipe"] == wanted
    assert recipe["model"] == "."
    assert {"data", "train", "loss", "output"} <= set(recipe)
    assert isinstance(recipe["train"]["learning_rate"], float)
    assert isinstance(recipe["train"]["steps"], int)
    assert f"{sum(p.numel() for p in converted.parameters()):,} parameters" in text
    assert "prismify train recipe.yaml" in text
    if wanted in SCHEMAS:
        assert read_recipe(tmp_path / "out" / "recipe.yaml").model.source == str(tmp_path / "out")
    assert "$" not in text


def test_every_recipe_that_there_is_is_chosen_for_some_model() -> None:
    there = {entry.name.removesuffix(".yaml") for entry in files("prismify.recipes").joinpath("templates").iterdir()}
    assert there == {wanted for _, wanted in MODELS.values()}


def test_the_recipe_is_the_same_however_the_model_came(tmp_path: Path, run: Callable[..., Any]) -> None:
    model = MODELS["autoencoder"][0]()
    model.save_pretrained(tmp_path / "vae")  # type: ignore[operator]
    assert run("convert", tmp_path / "vae", "-o", tmp_path / "cli").code == 0
    prismify.save(prismify.convert(model.eval()), tmp_path / "python")
    assert (tmp_path / "cli" / "recipe.yaml").read_text() == (tmp_path / "python" / "recipe.yaml").read_text()


def test_a_model_that_was_only_listed_still_gets_a_recipe(tmp_path: Path, run: Callable[..., Any]) -> None:
    """What cannot be captured is converted by a plan that a person edited."""
    (tmp_path / "odd.py").write_text(
        "import torch\nfrom torch import nn\nclass Odd(nn.Sequential):\n    def forward(self, x):\n"
        "        raise RuntimeError('needs a dongle')\n"
        "def make():\n    return Odd(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))\n"
    )
    source = f"{tmp_path / 'odd.py'}:make"
    assert run("scan", source, "--plan-out", tmp_path / "plan.json").code == 0
    import json

    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["layers"][1] |= {"decision": "replace", "operator": {"type": "DeepPrism"}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ran = run("convert", source, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["recipe"] == "distillation"
    assert "not by" in ran.out


def test_example_inputs_are_taken_as_they_are_given(tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "two.py").write_text(
        "from torch import nn\nclass Two(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1)\n"
        "    def forward(self, picture, gain):\n        return self.c(self.b(self.a(picture) * gain))\n"
    )
    source = f"{tmp_path / 'two.py'}:Two"
    torch.save([torch.ones(2, 3, 12, 14), torch.ones(1, 16, 1, 1)], tmp_path / "list.pt")
    torch.save({"gain": torch.ones(1, 16, 1, 1), "picture": torch.ones(2, 3, 12, 14)}, tmp_path / "dict.pt")
    shapes = {"picture": [2, 3, 12, 14], "gain": [1, 16, 1, 1]}
    for words in (
        ["--input", "2,3,12,14", "--input", "1x16x1x1"],
        ["--input", tmp_path / "list.pt"],
        ["--input", tmp_path / "dict.pt"],
    ):
        report = run("scan", source, *words, "--json").json
        assert sorted(i["shape"] for i in report["capture"][0]["inputs"]) == sorted(shapes.values())
        assert report["macs"]["before"] == 2 * (12 * 14 * 3 * 16 + 10 * 12 * 16 * 16 * 9 + 10 * 12 * 16 * 3)
    report = run("scan", "timm:test_resnet", "--input", "1,3,48,40", "--method", "forward_features", "--json").json
    assert [row["method"] for row in report["capture"]] == ["forward_features"]
    assert report["capture"][0]["inputs"][0]["shape"] == [1, 3, 48, 40]
