"""Normalising flows, written from their papers. They return the latents, and the log-determinant beside them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Coupling(nn.Module):
    """Half the channels give scale and shift of the other half (Dinh et al. 2017, Sec. 3.2)."""

    def __init__(self, channels: int, width: int, middle: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels // 2, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, middle, padding=middle // 2),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, 1)
        shift, scale = self.net(kept).chunk(2, 1)
        scale = torch.sigmoid(scale + 2)
        return torch.cat([kept, (changed + shift) * scale], 1), scale.log().sum((1, 2, 3))


class _GlowStep(nn.Module):
    """Actnorm, invertible 1x1 convolution, affine coupling."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.logs, self.bias = (
            nn.Parameter(torch.zeros(1, channels, 1, 1)),
            nn.Parameter(torch.zeros(1, channels, 1, 1)),
        )
        self.rotation = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.coupling = _Coupling(channels, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        area = x.shape[2] * x.shape[3]
        x = F.conv2d((x + self.bias) * self.logs.exp(), self.rotation[:, :, None, None])
        x, inner = self.coupling(x)
        return x, inner + area * (self.logs.sum() + torch.linalg.slogdet(self.rotation)[1])


class Glow(nn.Module):
    """Kingma and Dhariwal 2018: squeeze, steps of flow, split, a level at a time."""

    def __init__(self, channels: int = 3, width: int = 512, levels: int = 3, steps: int = 32) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for _ in range(levels):
            channels *= 4
            self.levels.append(nn.ModuleList(_GlowStep(channels, width) for _ in range(steps)))
            channels //= 2

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        latents, total = [], torch.zeros(len(x))
        for level in self.levels:
            x = F.pixel_unshuffle(x, 2)
            for step in level:
                x, inner = step(x)
                total = total + inner
            latent, x = x.chunk(2, 1)
            latents.append(latent)
        return [*latents, x], total


class RealNVP(nn.Module):
    """Dinh et al. 2017: masked (checkerboard) couplings with residual networks."""

    def __init__(self, channels: int = 3, width: int = 64, blocks: int = 8, couplings: int = 4) -> None:
        super().__init__()
        self.nets = nn.ModuleList(_ResidualNet(channels, width, blocks) for _ in range(couplings))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x))
        for index, net in enumerate(self.nets):
            rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])
            mask = ((rows + columns + index) % 2).to(x.dtype)
            scale, shift = net(x * mask).chunk(2, 1)
            scale = torch.tanh(scale) * (1 - mask)
            x = x * scale.exp() + shift * (1 - mask)
            total = total + scale.sum((1, 2, 3))
        return x, total


class _ResidualNet(nn.Module):
    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, width, 3, padding=1))
        self.first = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(blocks))
        self.tail = nn.utils.parametrizations.weight_norm(nn.Conv2d(width, 2 * channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for first, second, norm in zip(self.first, self.second, self.norms, strict=True):
            x = x + second(F.relu(norm(first(F.relu(x)))))
        return self.tail(F.relu(x))
