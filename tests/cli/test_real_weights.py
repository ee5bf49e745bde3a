"""Trained weights of other people, as they lie about: an old pickle, wrapped, behind a prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import prismify

RESNET = """
import torch
from torch import nn
from torch.nn import functional as F

class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pad = (width - before) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)

class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(3)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(2)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(2)])
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))
"""


@pytest.mark.data
def test_a_resnet_from_2018(tmp_path: Path, shared_data: Path, run: Callable[..., Any]) -> None:
    weights = shared_data / "cifar10_resnet" / "resnet20-12fca82f.th"
    (tmp_path / "resnet.py").write_text(RESNET)
    words = ["--model", f"{tmp_path / 'resnet.py'}:ResNet20", "-o", tmp_path / "out", "--json"]
    report = run("convert", weights, *words).json
    assert report["replaced"]["layers"] == 16  # every convolution inside that keeps its width
    assert report["parameters"]["before"] == 269_722
    original = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    state = prismify.load(tmp_path / "out", trust_code=True).state_dict()
    kept = [name for name in state if f"module.{name}" in original and not name.endswith("num_batches_tracked")]
    same = [name for name in kept if torch.equal(state[name], original[f"module.{name}"])]
    replaced = {f"{row['name']}.weight" for row in report["layers"] if row["decision"] == "replace"}
    assert set(kept) - set(same) == replaced


@pytest.mark.data
def test_a_state_dict_of_another_network_does_not_fit(shared_data: Path, run: Callable[..., Any]) -> None:
    weights = shared_data / "lpips" / "lpips_vgg16_v0.1_fp16.safetensors"
    line = run("scan", weights, "--model", "torchvision:vgg16").line
    assert "classifier.0.weight is missing (the model has (4096, 25088))" in line
    assert "does not fit the model" in line
