"""A denoiser of MNIST's digits, 28x28, whose trained weights are at hand (BrianPulfer's, MIT)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, before: int, after: int, side: int, normalised: bool = True) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((before, side, side))
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.normalised = normalised

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln(x) if self.normalised else x
        return F.silu(self.conv2(F.silu(self.conv1(x))))


def _blocks(side: int, *widths: int, last_normalised: bool = True) -> nn.Sequential:
    pairs = enumerate(pairwise(widths))
    return nn.Sequential(*(_Block(a, b, side, i < 2 or last_normalised) for i, (a, b) in pairs))


class DDPM(nn.Module):
    """Three levels down and up, the time added at each; the names are those of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Embedding(1000, 100)
        for name, width in (("1", 1), ("2", 10), ("3", 20), ("_mid", 40), ("4", 80), ("5", 40), ("_out", 20)):
            self.add_module(f"te{name}", nn.Sequential(nn.Linear(100, width), nn.SiLU(), nn.Linear(width, width)))
        self.b1, self.b2, self.b3 = _blocks(28, 1, 10, 10, 10), _blocks(14, 10, 20, 20, 20), _blocks(7, 20, 40, 40, 40)
        self.down1, self.down2 = nn.Conv2d(10, 10, 4, 2, 1), nn.Conv2d(20, 20, 4, 2, 1)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))
        self.b_mid = _blocks(3, 40, 20, 20, 40)
        self.up1 = nn.Sequential(nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2))
        self.up2, self.up3 = nn.ConvTranspose2d(20, 20, 4, 2, 1), nn.ConvTranspose2d(10, 10, 4, 2, 1)
        self.b4, self.b5 = _blocks(7, 80, 40, 20, 20), _blocks(14, 40, 20, 10, 10)
        self.b_out = _blocks(28, 20, 10, 10, 10, last_normalised=False)
        self.conv_out = nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time_embed(t)

        def told(name: str, features: Tensor) -> Tensor:
            added: Tensor = self.get_submodule(f"te{name}")(time)
            return features + added[:, :, None, None]

        one = self.b1(told("1", x))
        two = self.b2(told("2", self.down1(one)))
        three = self.b3(told("3", self.down2(two)))
        middle = self.up1(self.b_mid(told("_mid", self.down3(three))))
        four = self.b4(told("4", torch.cat((three, middle), 1)))
        five = self.b5(told("5", torch.cat((two, self.up2(four)), 1)))
        result: Tensor = self.conv_out(self.b_out(told("_out", torch.cat((one, self.up3(five)), 1))))
        return result


def make(**arguments: Any) -> DDPM:
    return DDPM(**arguments)
