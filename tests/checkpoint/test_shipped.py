"""The trained models that come with prismify."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import prismify
from examples.demo import PICTURE, load_picture
from prismify.checkpoint.shipped import shipped_models
from prismify.errors import SourceError


@pytest.mark.parametrize("name", shipped_models())
@torch.inference_mode()
def test_it_reconstructs_a_picture(name: str) -> None:
    model = prismify.load(name)
    assert any(isinstance(module, prismify.DeepPrism) for module in model.modules())
    picture = load_picture(PICTURE)
    output = model(picture, sample_posterior=False).sample.clamp(-1, 1)
    assert 10 * math.log10(4 / float((picture - output).square().mean())) > 22


def test_what_comes_along() -> None:
    assert "cifar10-ae-64" in shipped_models()
    with pytest.raises(SourceError, match="no-such-model"):
        prismify.load("no-such-model")


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 3, 3))
    prismify.save(prismify.convert(net), "cifar10-ae-64")
    assert isinstance(prismify.load("cifar10-ae-64"), torch.nn.Sequential)
