"""Fixtures every test shares. The path line makes `prismify.cli` and `prismify.recipes` importable uninstalled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prismify

ROOT = Path(__file__).parents[1]
prismify.__path__.append(str(ROOT))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real weights and images, which are not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real weights and images (../shared/data) are not here")
    return folder
