"""A model with blocks of every kind, and a small search of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from prismify import Policy

ROOT = Path(__file__).parents[2]
CANDIDATES = {
    "27 weights": Policy(name="volumes", min_volume=4),
    "volumes of 4": Policy(name="volumes", depth=4, min_volume=4),
    "low rank 2": Policy(name="volumes", operator="LowRank", options={"rank": 2}),
}


class Inner(nn.Module):
    """A block that a block holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


class Block(nn.Module):
    """It writes to its input, normalises, and holds another block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, 16)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.inner = Inner()

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        x = F.silu(x, inplace=True)
        return x + scale * self.inner(self.first(self.norm(x)))


class Net(nn.Module):
    """Blocks, a layer that stands alone, two that share their weight, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.alone = nn.Conv2d(16, 16, 3, padding=1)
        self.shared = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])
        self.shared[1].weight = self.shared[0].weight
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, scale=0.5)
        for layer in (self.alone, *self.shared):
            x = layer(x).tanh()
        return self.head(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 crops of a picture, 16x16."""
    folder = tmp_path_factory.mktemp("squares")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    for i in range(24):
        left, top = 16 * (i % 6), 16 * (i // 6)
        whole.crop((left, top, left + 16, top + 16)).save(folder / f"{i:02d}.png")
    return folder
