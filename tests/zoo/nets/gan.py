"""Generators of adversarial networks, written from their papers."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DCGAN(nn.Sequential):
    """Radford et al. 2016: a latent vector grown by transposed convolutions, batch norm and ReLU, tanh at the end."""

    def __init__(self, latent: int = 100, width: int = 64, image: int = 64, channels: int = 3) -> None:
        doublings = int(math.log2(image)) - 3
        widths = [width * 2**i for i in reversed(range(doublings + 1))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], 4, 1, 0, bias=False)]
        for wide, narrow in itertools.pairwise(widths):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False)]
        super().__init__(*layers, nn.Tanh())


class _Modulated(nn.Module):
    """A convolution whose weight is scaled by a style and demodulated (Karras et al. 2020, Sec. 2.2)."""

    def __init__(self, style: int, wide: int, narrow: int, kernel: int, demodulate: bool = True) -> None:
        super().__init__()
        self.affine = nn.Linear(style, wide)
        self.weight = nn.Parameter(torch.randn(narrow, wide, kernel, kernel) / math.sqrt(wide * kernel**2))
        self.bias = nn.Parameter(torch.zeros(narrow))
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight = self.weight[None] * (1 + self.affine(w))[:, None, :, None, None]
        if self.demodulate:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, batch * channels, height, width)
        weight = weight.reshape(-1, *weight.shape[2:])
        x = F.conv2d(x, weight, padding=self.weight.shape[-1] // 2, groups=batch)
        return x.reshape(batch, -1, height, width) + self.bias[:, None, None]


class StyleGAN2(nn.Module):
    """Karras et al. 2020: mapping network, constant input, modulated convolutions, noise, skip connections to RGB."""

    def __init__(self, latent: int = 512, width: int = 512, image: int = 256, mapping: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(mapping):
            layers += [nn.Linear(latent, latent), nn.LeakyReLU(0.2)]
        self.mapping = nn.Sequential(*layers)
        self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
        self.first = _Modulated(latent, width, width, 3)
        self.first_rgb = _Modulated(latent, width, 3, 1, demodulate=False)
        steps = int(math.log2(image)) - 2
        self.up = nn.ModuleList(_Modulated(latent, width, width, 3) for _ in range(steps))
        self.conv = nn.ModuleList(_Modulated(latent, width, width, 3) for _ in range(steps))
        self.rgb = nn.ModuleList(_Modulated(latent, width, 3, 1, demodulate=False) for _ in range(steps))
        self.noise = nn.Parameter(torch.zeros(2 * steps + 1))
        for index in range(2 * steps + 1):
            size = 4 * 2 ** ((index + 1) // 2)
            self.register_buffer(f"noise_{index}", torch.randn(1, 1, size, size))

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        x = self._noisy(self.first(self.constant.expand(len(z), -1, -1, -1), w), 0)
        picture = self.first_rgb(x, w)
        for index, (up, conv, rgb) in enumerate(zip(self.up, self.conv, self.rgb, strict=True)):
            x = self._noisy(up(F.interpolate(x, scale_factor=2.0), w), 2 * index + 1)
            x = self._noisy(conv(x, w), 2 * index + 2)
            picture = F.interpolate(picture, scale_factor=2.0, mode="bilinear") + rgb(x, w)
        return picture

    def _noisy(self, x: Tensor, index: int) -> Tensor:
        return F.leaky_relu(x + self.noise[index] * getattr(self, f"noise_{index}"), 0.2)


class Pix2PixUNet(nn.Module):
    """Isola et al. 2017: strided convolutions down, transposed ones up, skips joined by concatenation."""

    def __init__(self, channels: int = 3, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        widths = [width * min(8, 2**i) for i in range(depth)]
        self.down = nn.ModuleList()
        for index, wide in enumerate(widths):
            before = widths[index - 1] if index else channels
            self.down.append(nn.Conv2d(before, wide, 4, 2, 1))
        self.norm_down = nn.ModuleList(nn.InstanceNorm2d(w, affine=True) for w in widths[1:-1])
        self.up = nn.ModuleList()
        for index in reversed(range(depth)):
            after = widths[index - 1] if index else channels
            self.up.append(nn.ConvTranspose2d(widths[index] * (1 if index == depth - 1 else 2), after, 4, 2, 1))
        self.norm_up = nn.ModuleList(nn.InstanceNorm2d(w, affine=True) for w in reversed(widths[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, conv in enumerate(self.down):
            x = conv(F.leaky_relu(x, 0.2) if index else x)
            if 0 < index < len(self.down) - 1:
                x = self.norm_down[index - 1](x)
            skips.append(x)
        x = skips.pop()
        for index, conv in enumerate(self.up[:-1]):
            x = torch.cat([self.norm_up[index](conv(F.relu(x))), skips.pop()], 1)
        return torch.tanh(self.up[-1](F.relu(x)))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(F.pad(x, (1, 1, 1, 1), "reflect"))))
        return x + self.norm2(self.conv2(F.pad(h, (1, 1, 1, 1), "reflect")))


class CycleGAN(nn.Module):
    """Zhu et al. 2017, Johnson et al.'s generator: 7x7, two down, residual blocks, two transposed up, 7x7."""

    def __init__(self, channels: int = 3, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, width, 7)
        self.down = nn.ModuleList(nn.Conv2d(width * n, width * n * 2, 3, 2, 1) for n in (1, 2))
        self.blocks = nn.Sequential(*(_Residual(4 * width) for _ in range(blocks)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(width * n * 2, width * n, 3, 2, 1, output_padding=1) for n in (2, 1))
        self.tail = nn.Conv2d(width, channels, 7)
        self.norm = nn.ModuleList(nn.InstanceNorm2d(width * n) for n in (1, 2, 4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm[0](self.head(F.pad(x, (3, 3, 3, 3), "reflect"))))
        for conv, norm in zip(self.down, self.norm[1:3], strict=True):
            x = F.relu(norm(conv(x)))
        x = self.blocks(x)
        for conv, norm in zip(self.up, self.norm[3:], strict=True):
            x = F.relu(norm(conv(x)))
        return torch.tanh(self.tail(F.pad(x, (3, 3, 3, 3), "reflect")))


class _BigBlock(nn.Module):
    """A residual block up with class-conditional batch norm."""

    def __init__(self, wide: int, narrow: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(wide, affine=False), nn.BatchNorm2d(narrow, affine=False)
        self.gain1, self.bias1 = nn.Linear(condition, wide), nn.Linear(condition, wide)
        self.gain2, self.bias2 = nn.Linear(condition, narrow), nn.Linear(condition, narrow)
        self.conv1, self.conv2 = nn.Conv2d(wide, narrow, 3, padding=1), nn.Conv2d(narrow, narrow, 3, padding=1)
        self.skip = nn.Conv2d(wide, narrow, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.norm1(x) * (1 + self.gain1(c))[..., None, None] + self.bias1(c)[..., None, None]
        h = self.conv1(F.interpolate(F.relu(h), scale_factor=2.0))
        h = self.norm2(h) * (1 + self.gain2(c))[..., None, None] + self.bias2(c)[..., None, None]
        return self.conv2(F.relu(h)) + self.skip(F.interpolate(x, scale_factor=2.0))


class BigGAN(nn.Module):
    """Brock et al. 2019: split latent, class-conditional residual blocks, 1x1 self-attention."""

    def __init__(self, latent: int = 120, width: int = 96, image: int = 128, classes: int = 1000) -> None:
        super().__init__()
        steps = int(math.log2(image)) - 2
        widths = [width * n for n in (16, 16, 8, 4, 2, 1)][-steps - 1 :]
        self.chunk = latent // (steps + 1)
        self.embedding = nn.Embedding(classes, self.chunk)
        self.linear = nn.Linear(self.chunk, 16 * widths[0])
        self.blocks = nn.ModuleList(_BigBlock(a, b, 2 * self.chunk) for a, b in itertools.pairwise(widths))
        wide = widths[-2]
        self.theta, self.phi = nn.Conv2d(wide, wide // 8, 1, bias=False), nn.Conv2d(wide, wide // 8, 1, bias=False)
        self.g, self.o = nn.Conv2d(wide, wide // 2, 1, bias=False), nn.Conv2d(wide // 2, wide, 1, bias=False)
        self.gamma = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.tail = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        first, *others = z.split(self.chunk, 1)[: len(self.blocks) + 1]
        x = self.linear(first).unflatten(1, (-1, 4, 4))
        for index, block in enumerate(self.blocks):
            if index == len(self.blocks) - 1:
                x = self._attend(x)
            x = block(x, torch.cat([others[index], self.embedding(y)], 1))
        return torch.tanh(self.tail(F.relu(self.norm(x))))

    def _attend(self, x: Tensor) -> Tensor:
        theta, phi = self.theta(x).flatten(2), F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        weights = (theta.transpose(1, 2) @ phi).softmax(-1)
        return x + self.gamma * self.o((g @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))
