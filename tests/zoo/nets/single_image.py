"""A generator trained on one image, written from its paper."""

from __future__ import annotations

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
