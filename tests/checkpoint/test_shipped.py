"""The trained models that come with prismify."""

from __future__ import annotations

import json
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

import prismify
from examples.demo import PICTURE, load_picture, reconstruct
from prismify.checkpoint.shipped import shipped_models
from prismify.errors import SourceError

NAMES = ("cifar10-ae-64",)


@pytest.mark.parametrize("name", NAMES)
def test_it_reconstructs_a_picture(name: str) -> None:
    model = prismify.load(name)
    assert any(isinstance(module, prismify.DeepPrism) for module in model.modules())
    assert reconstruct(model, load_picture(PICTURE))[1] > 22


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
