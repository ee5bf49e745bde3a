"""Denoising and super-resolution networks, written from their papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DnCNN(nn.Module):
    """Zhang et al. 2017: a chain of convolutions that predicts the noise, which is subtracted."""

    def __init__(self, channels: int = 1, width: int = 64, depth: int = 17) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)


class SRVGG(nn.Module):
    """Wang et al. 2021 (Real-ESRGAN's compact network): a plain chain, pixel shuffle, added to the enlarged input."""

    def __init__(self, channels: int = 3, width: int = 64, convolutions: int = 32, scale: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, channels * scale**2, 3, padding=1))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), self.scale) + F.interpolate(x, scale_factor=float(self.scale))


class _Dense(nn.Module):
    """Five convolutions, each reading all before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1) for i in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(seen, 1))


class RRDB(nn.Module):
    """Wang et al. 2018 (ESRGAN): residual-in-residual dense blocks, nearest-neighbour upsampling."""

    def __init__(self, channels: int = 3, width: int = 64, growth: int = 32, blocks: int = 23) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(channels, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Sequential(*(_Dense(width, growth) for _ in range(3))) for _ in range(blocks))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        h = x
        for block in self.body:
            h = h + 0.2 * block(h)
        x = x + self.conv_body(h)
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0)), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class _ChannelAttention(nn.Module):
    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(width, width // reduction, 1), nn.Conv2d(width // reduction, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x)))
        gate = self.excite(F.relu(self.squeeze(h.mean((2, 3), keepdim=True)))).sigmoid()
        return x + h * gate


class RCAN(nn.Module):
    """Zhang et al. 2018: residual groups with channel attention, pixel shuffle."""

    def __init__(
        self, width: int = 64, groups: int = 10, blocks: int = 20, scale: int = 2, reduction: int = 16
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.groups = nn.ModuleList(
            nn.Sequential(
                *(_ChannelAttention(width, reduction) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(groups)
        )
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Conv2d(width, width * scale**2, 3, padding=1)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        h = x
        for group in self.groups:
            h = h + group(h)
        return self.tail(F.pixel_shuffle(self.up(x + self.last(h)), self.scale))


class NAFNet(nn.Module):
    """Chen et al. 2022: a U-Net of blocks with depthwise convolutions and simple gates, at one width a level."""

    def __init__(self, width: int = 32, blocks: tuple[int, ...] = (1, 1, 1, 28), middle: int = 1) -> None:
        super().__init__()
        self.intro, self.ending = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        widths = [width * 2**i for i in range(len(blocks))]
        self.encoders = nn.ModuleList(
            nn.Sequential(*(_Gated(w) for _ in range(n))) for w, n in zip(widths, blocks, strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, 2) for w in widths)
        self.middle = nn.Sequential(*(_Gated(2 * widths[-1]) for _ in range(middle)))
        self.ups = nn.ModuleList(nn.Conv2d(2 * w, 4 * w, 1, bias=False) for w in reversed(widths))
        self.decoders = nn.ModuleList(_Gated(w) for w in reversed(widths))

    def forward(self, x: Tensor) -> Tensor:
        h, skips = self.intro(x), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(h))
            h = down(skips[-1])
        h = self.middle(h)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            h = decoder(F.pixel_shuffle(up(h), 2) + skips.pop())
        return x + self.ending(h)


class _Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.wide, self.depthwise = (
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width),
        )
        self.squeeze, self.narrow = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.feed, self.forth = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.beta, self.gamma = nn.Parameter(torch.ones(1, width, 1, 1)), nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.wide(self.norm1(x))).chunk(2, 1)
        h = a * b
        x = x + self.beta * self.narrow(h * self.squeeze(h.mean((2, 3), keepdim=True)))
        a, b = self.feed(self.norm2(x)).chunk(2, 1)
        return x + self.gamma * self.forth(a * b)
