"""Fixtures every test shares. The path line makes `prismify.cli` and `prismify.recipes` importable uninstalled."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: neither a test nor what it starts asks a hub

import pytest
import torch

import prismify

ROOT = Path(__file__).parents[1]
prismify.__path__.append(str(ROOT))

# Processes that share a run of the tests share the cores as well, and so do those that they start.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long first, so that processes that run files beside one another end together."""
    order = ("zoo", "training")
    items.sort(key=lambda item: next((n for n, room in enumerate(order) if room in item.path.parts), len(order)))
