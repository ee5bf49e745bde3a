"""The trained models that come with prismify."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch

import prismify
from examples.demo import PICTURE, load_picture, reconstruct
from prismify.checkpoint.shipped import shipped_models
from prismify.diffusion.making import Wanted, make_pictures
from prismify.diffusion.opening import open_denoiser
from prismify.errors import SourceError

AUTOENCODERS, DENOISERS = ("cifar10-ae-64",), ("mnist-ddpm-64",)
NAMES = AUTOENCODERS + DENOISERS


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_it_reconstructs_a_picture(name: str) -> None:
    model = prismify.load(name)
    assert any(isinstance(module, prismify.DeepPrism) for module in model.modules())
    assert reconstruct(model, load_picture(PICTURE))[1] > 22


@pytest.mark.parametrize("name", DENOISERS)
def test_it_makes_pictures_of_its_classes(name: str) -> None:
    opened = open_denoiser(name)
    assert any(isinstance(module, prismify.DeepPrism) for module in opened.denoiser.model.modules())
    (pixels, classes), *_ = make_pictures(opened, Wanted(count=40, steps=25, seed=3, guidance=2.5))
    assert classes == [str(i % 10) for i in range(40)]
    digits = pixels[..., 0].astype(np.float32) / 255
    assert 0.05 < digits.mean() < 0.2  # strokes on a ground of black, as thick as a pen's
    kinds = np.stack([digits[i::10] for i in range(10)])  # (digit, picture, height, width)
    within = ((kinds - kinds.mean(1, keepdims=True)) ** 2).mean()
    assert within < 0.8 * ((kinds - kinds.mean((0, 1))) ** 2).mean()  # those of a digit are like one another


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_names_nobodys_folders(name: str) -> None:
    folder = shipped_models()[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    for file in folder.glob("*.[jmy]*"):
        if file.suffix != ".safetensors":
            assert not re.search(r"\"/|: /", file.read_text()), file


def test_what_comes_along() -> None:
    assert set(shipped_models()) == set(NAMES)
    with pytest.raises(SourceError, match="no-such-model"):
        prismify.load("no-such-model")


def test_a_wheel_takes_all_of_it_along() -> None:
    stanza = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = stanza["package-data"]["prismify.pretrained"]
    for name, folder in shipped_models().items():
        for file in json.loads((folder / "prismify.json").read_text())["files"]:
            assert any(fnmatchcase(f"{name}/{file}", pattern) for pattern in patterns), file


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 3, 3))
    prismify.save(prismify.convert(net), "cifar10-ae-64")
    assert isinstance(prismify.load("cifar10-ae-64"), torch.nn.Sequential)
