"""Small models, converted and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import prismify


def plain(width: int = 16) -> nn.Sequential:
    """A convolution in, one inside, one out."""
    inner = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), inner, nn.Conv2d(width, 3, 3, padding=1)).eval()


@pytest.fixture
def make_plain() -> Callable[..., nn.Sequential]:
    return plain


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A converted folder with a skeleton."""
    prismify.save(prismify.convert(plain()), tmp_path / "saved")
    return tmp_path / "saved"
