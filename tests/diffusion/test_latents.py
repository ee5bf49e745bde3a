"""Latents are made once, lie on disk whole or not at all, and are those of the autoencoder that made them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from prismify.recipes import carry_out
from safetensors.torch import load_file

import prismify
from prismify.diffusion import latents as latents_module
from prismify.diffusion import shards as shards_module
from prismify.diffusion.latents import LatentStream, weights_hash
from prismify.diffusion.making import Wanted, make_pictures
from prismify.diffusion.material import open_material
from prismify.diffusion.opening import open_denoiser
from prismify.errors import PrismifyError
from prismify.graph.latents import encode
from prismify.training.data import Sample, image_tensor
from prismify.training.engine import Event, open_run
from prismify.training.recipe import recipe_from

from .conftest import UNET

ROOT = Path(__file__).parents[2]
Recipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted autoencoder with two latent channels at half the size."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4, latent_channels=2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, sample_size=8,
    ).eval()  # fmt: skip
    folder = tmp_path_factory.mktemp("autoencoder") / "small"
    prismify.save(prismify.convert(model), folder)
    return folder


@pytest.fixture
def latent_recipe(recipe: Recipe, autoencoder: Path) -> Recipe:
    def make(**sections: Any) -> dict[str, Any]:
        arguments = {**UNET, "in_channels": 2, "out_channels": 2, "sample_size": 4}
        content = {"model": {"arguments": arguments}, "autoencoder": {"source": str(autoencoder)}}
        return recipe(**{**content, "data": {"flip": True}, **sections})

    return make


def watch(event: Event) -> None:
    pass


def test_a_latent_is_what_the_autoencoder_says_of_its_image(
    latent_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (latents_module, shards_module):
        monkeypatch.setattr(module, "SHARD", 7)
    read = recipe_from(latent_recipe(), "test")
    with open_run(read, watch) as run:
        material = open_material(run, read)  # type: ignore[arg-type]
        stream, model = material.stream, material.autoencoder
        assert isinstance(stream, LatentStream)
        assert model is not None
        assert len(list(stream.folder.glob("shard-*.safetensors"))) == 3  # of 20 images
        everything = torch.cat(list(stream.in_order(8)))
        with torch.no_grad():
            for index in (0, 6, 7, 19):
                image = image_tensor(stream.images.picture(index), stream.data, None)[None]
                wanted = encode(model, image).mean[0]
                assert torch.allclose(everything[index] * stream.deviation + stream.mean, wanted, atol=1e-5)
        drawn = [item for item in (stream[position] for position in range(2000)) if isinstance(item, Sample)]
        latents = torch.stack([item.image for item in drawn])
        assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(2), atol=0.1)
        assert torch.allclose(latents.std((0, 2, 3)), torch.ones(2), atol=0.1)
        assert len({float(item.image.sum()) for item in drawn}) == 2000  # drawn anew each time
        assert {item.label for item in drawn} == {0, 1}


def test_a_run_on_latents_makes_pictures(latent_recipe: Recipe, autoencoder: Path) -> None:
    folder = carry_out(recipe_from(latent_recipe(), "test"))
    opened = open_denoiser(str(folder / "model"))
    (pixels, labels), *_ = make_pictures(opened, Wanted(count=2, steps=2, size=(16, 12)))
    assert pixels.shape == (2, 12, 16, 3)
    assert labels == ["a", "b"]
    with pytest.raises(PrismifyError, match="size 15x12: pictures from latents are multiples of 2 a side"):
        list(make_pictures(opened, Wanted(count=1, steps=1, size=(15, 12))))
    record = json.loads((folder / "denoising.json").read_text())
    assert record["latents"]["hash"] == weights_hash(prismify.load(autoencoder))


def test_latents_are_shared_and_never_those_of_another(latent_recipe: Recipe, tmp_path: Path) -> None:
    content = latent_recipe(latents={"path": str(tmp_path / "shared")}, train={"steps": 1})
    said: list[str] = []
    carry_out(recipe_from({**content, "output": str(tmp_path / "one")}, "test"))
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "shared").rglob("*.safetensors")}
    carry_out(recipe_from({**content, "output": str(tmp_path / "two")}, "test"), lambda event: said.append(event.text))
    assert made == {p: p.stat().st_mtime_ns for p in (tmp_path / "shared").rglob("*.safetensors")}
    assert not any("making latents" in text for text in said)
    for record in (tmp_path / "shared").rglob("latents.json"):
        facts = json.loads(record.read_text())
        record.write_text(json.dumps({**facts, "autoencoder": "0123456789abcdef"}))
    with pytest.raises(PrismifyError, match="holds latents of another autoencoder") as caught:
        carry_out(recipe_from({**content, "output": str(tmp_path / "three")}, "test"))
    assert "\n" not in str(caught.value)


def test_latents_of_other_pictures_of_the_same_names_are_made_anew(
    latent_recipe: Recipe, tmp_path: Path, pictures: Path
) -> None:
    for name, shade in (("one", 40), ("two", 200)):
        np.savez(tmp_path / f"{name}.npz", images=np.full((9, 8, 8, 3), shade, np.uint8))
    content = latent_recipe(
        latents={"path": str(tmp_path / "shared")}, train={"steps": 1}, condition={"kind": "none"},
        model={"arguments": {**UNET, "in_channels": 2, "out_channels": 2, "num_class_embeds": None}},
    )  # fmt: skip
    for number, name in enumerate(("one", "two"), 1):
        content["data"] |= {"path": str(tmp_path / f"{name}.npz")}
        carry_out(recipe_from({**content, "output": str(tmp_path / name)}, "test"))
        assert len(list((tmp_path / "shared").iterdir())) == 2 * number  # to train on, and held out


def test_an_autoencoder_that_changed_is_told(latent_recipe: Recipe, autoencoder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(autoencoder, tmp_path / "mine")
    folder = carry_out(recipe_from(latent_recipe(autoencoder={"source": str(tmp_path / "mine")}), "test"))
    model = prismify.load(tmp_path / "mine")
    with torch.no_grad():
        model.decoder.conv_out.bias.add_(1)
    prismify.save(model, tmp_path / "mine", force=True)
    with pytest.raises(PrismifyError, match=r"has other weights .* than those whose latents"):
        open_denoiser(str(folder))


KILLER = """
import sys
import prismify
prismify.__path__.append(sys.argv[1])
from prismify.diffusion import latents, shards
latents.SHARD = shards.SHARD = 2
from prismify.recipes import carry_out
from prismify.training.recipe import read_recipe
carry_out(read_recipe("recipe.yaml"))
"""


@pytest.mark.slow
def test_kills_while_latents_are_made_and_after_lose_nothing(latent_recipe: Recipe, tmp_path: Path) -> None:
    """Whole shards stay as they are, and the weights are those of a run that nobody stopped."""
    content = latent_recipe(train={"steps": 6})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", KILLER, str(ROOT)]
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "recipe.yaml").write_text(yaml.safe_dump({**content, "output": "run"}))
    subprocess.run(words, cwd=tmp_path / "whole", env=environment, check=True, capture_output=True)
    place = tmp_path / "killed"
    place.mkdir()
    (place / "recipe.yaml").write_text(yaml.safe_dump({**content, "output": "run"}))

    def shards() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in place.rglob("shard-*.safetensors")}

    def steps() -> int:
        file = place / "run" / "metrics.jsonl"
        return file.read_text().count("\n") if file.is_file() else 0

    for wanted in (lambda: len(shards()) >= 3, lambda: len(shards()) >= 8, lambda: steps() >= 2):
        before = shards()
        process = subprocess.Popen(
            words, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not wanted() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {p: shards()[p] for p in before} == before
    subprocess.run(words, cwd=place, env=environment, check=True, capture_output=True)
    whole, killed = (load_file(p / "run" / "model" / "model.safetensors") for p in (tmp_path / "whole", place))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not [p for p in place.rglob("*") if "prismify-draft" in p.name]
