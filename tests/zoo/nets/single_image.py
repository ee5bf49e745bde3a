"""Generators trained on one image, written from their papers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SinGAN(nn.Module):
    """Shaham et al. 2019: a pyramid of five-convolution generators, each refining the enlarged picture before it."""

    def __init__(self, width: int = 32, scales: int = 8, image: int = 250, factor: float = 0.75) -> None:
        super().__init__()
        self.sizes = [max(8, round(image * factor ** (scales - 1 - i))) for i in range(scales)]
        self.generators = nn.ModuleList(self._generator(width) for _ in range(scales))

    @staticmethod
    def _generator(width: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        """`noise` has the finest scale's size; coarser scales read it shrunk."""
        picture = torch.zeros(len(noise), 3, self.sizes[0], self.sizes[0], dtype=noise.dtype, device=noise.device)
        for size, generator in zip(self.sizes, self.generators, strict=True):
            picture = F.interpolate(picture, size=(size, size), mode="bilinear")
            here = F.interpolate(noise, size=(size, size))
            picture = picture + generator(here + picture)
        return picture


class _Block(nn.Module):
    """Depthwise 5x5, the time added, then two 3x3 with GELU, and a 1x1 around where the width changes."""

    def __init__(self, wide: int, narrow: int, time: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.GELU(), nn.Linear(time, wide))
        self.depthwise = nn.Conv2d(wide, wide, 5, padding=2, groups=wide)
        self.conv1, self.conv2 = nn.Conv2d(wide, narrow, 3, padding=1), nn.Conv2d(narrow, narrow, 3, padding=1)
        self.around = nn.Conv2d(wide, narrow, 1) if wide != narrow else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.depthwise(x) + self.mlp(time)[:, :, None, None]
        return self.conv2(F.gelu(self.conv1(h))) + self.around(x)


class SinDDM(nn.Module):
    """Kulikov et al. 2023: a fully convolutional denoiser of four blocks, told the time and the scale."""

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        time = width // 5
        self.time = nn.Sequential(nn.Linear(2 * time, 4 * time), nn.GELU(), nn.Linear(4 * time, time))
        half = width // 2
        self.blocks = nn.ModuleList(
            [_Block(3, half, time), _Block(half, width, time), _Block(width, width, time), _Block(width, half, time)]
        )
        self.final = nn.Conv2d(half, 3, 1)
        self.embedding = time

    def forward(self, x: Tensor, time: Tensor, scale: int = 0) -> Tensor:
        rates = torch.exp(-math.log(10000) * torch.arange(self.embedding // 2) / (self.embedding // 2))
        angles = [value[:, None] * rates for value in (time, torch.full_like(time, float(scale)))]
        told = self.time(torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1))
        for block in self.blocks:
            x = block(x, told)
        return self.final(x)
