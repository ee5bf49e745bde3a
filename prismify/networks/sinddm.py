"""SinDDM's network: it tells noise from a picture at any size and at several scales (Kulikov et al., 2023)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class SinDDM(nn.Module):
    """Four blocks of convolutions at one resolution, told the time and the scale; it sees 33 pixels a side.

    With the width of the paper, 160, it has 1,106,772 parameters.

    Args:
        width: of the blocks in the middle; those at both ends are half as wide.
        channels: of the picture.
        time_width: of the vector that time and scale become.
        widen_first: let the 1x1 of the shortcut change the width in front of the two 3x3 as well, which are C->C then.
            Converted, four times "Conv - DeepPrism - GELU - DeepPrism" (DeepPrism, Sec. 4.2).

    Raises:
        ValueError: `width` is odd, or `time_width` odd or below 4.
    """

    def __init__(self, width: int = 160, channels: int = 3, time_width: int = 32, widen_first: bool = False) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width {width} must be even: the outer blocks are half as wide")
        if time_width < 4 or time_width % 2:
            raise ValueError(f"time_width {time_width} must be even and at least 4: sines and cosines fill it")
        half = width // 2
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(2 * time_width, 4 * time_width), nn.GELU(), nn.Linear(4 * time_width, time_width)
        )
        widths = (channels, half, width, width, half)
        self.blocks = nn.ModuleList(Block(before, after, time_width, widen_first) for before, after in pairwise(widths))
        self.out = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor, time: Tensor, scale: Tensor | None = None) -> Tensor:
        """The noise in `x`, shape (B, C, H, W).

        Args:
            x: noised pictures, shape (B, C, H, W), of any height and width.
            time: shape (B,).
            scale: the number of the scale, from 0, the coarsest: shape (B,); None is 0.
        """
        scale = torch.zeros_like(time) if scale is None else scale
        told = torch.cat([sinusoids(value.to(x.dtype), self.time_width) for value in (time, scale)], 1)
        told = self.time(told)
        for block in self.blocks:
            x = block(x, told)
        result: Tensor = self.out(x)
        return result


class Block(nn.Module):
    """Depthwise 5x5, the time added, 3x3 - GELU - 3x3, and a shortcut: 1x1 where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, widen_first: bool) -> None:
        super().__init__()
        self.widen_first = widen_first
        self.time = nn.Sequential(nn.GELU(), nn.Linear(time_width, time_width), nn.Linear(time_width, in_channels))
        self.depthwise = nn.Conv2d(in_channels, in_channels, 5, padding=2, groups=in_channels)
        self.conv1 = nn.Conv2d(out_channels if widen_first else in_channels, out_channels, 3, padding=1)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Shape (B, C', H, W) from `x` (B, C, H, W) and the vector of time and scale (B, time_width)."""
        h = self.depthwise(x) + self.time(told)[:, :, None, None]
        if self.widen_first:
            h = self.shortcut(h)
        h = self.conv2(self.act(self.conv1(h)))
        result: Tensor = h + self.shortcut(x)
        return result


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Sines and cosines of numbers at `width // 2` rates from 1 down to 1/10000: (B,) -> (B, width)."""
    steps = torch.arange(width // 2, device=values.device, dtype=values.dtype)
    angles = values[:, None] * torch.exp(steps * (-math.log(10000) / (width // 2 - 1)))
    return torch.cat([angles.sin(), angles.cos()], 1)
