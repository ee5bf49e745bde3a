"""The global generators of random numbers stay where a script left them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prismify
from prismify.generators import kept_generators, seed_generators

Drawn = tuple[float, float, float]
#: Its constructor and its forward draw from all of them.
RESTLESS = """
import random

import numpy as np
import torch
from torch import nn


class Restless(nn.Module):
    def __init__(self):
        super().__init__()
        width = 16 if random.random() + np.random.rand() + float(torch.rand(())) < 4 else 8
        self.a, self.b, self.c = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3), nn.Conv2d(width, 3, 3)
        self.register_buffer("noise", torch.rand(1), persistent=False)

    def forward(self, x):
        return self.c(torch.dropout(self.b(self.a(x)), random.random() * np.random.rand() / 2, True))
"""


def drawn() -> Drawn:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def after(use: Callable[[], Any]) -> Drawn:
    """What the generators give after something was used, started at the same place each time."""
    seed_generators(7)
    use()
    return drawn()


@pytest.fixture(scope="module")
def undisturbed_draw() -> Drawn:
    return after(lambda: None)


@pytest.fixture
def restless(tmp_path: Path) -> tuple[str, nn.Module]:
    (tmp_path / "restless.py").write_text(RESTLESS)
    reference = f"{tmp_path / 'restless.py'}:Restless"
    from prismify.checkpoint import open_source

    return reference, open_source(reference, trust_code=True).build()


@pytest.mark.parametrize("described", ["reference", "config", "skeleton"])
def test_saving_and_loading_move_no_generator(
    tmp_path: Path, restless: tuple[str, nn.Module], undisturbed_draw: Drawn, described: str
) -> None:
    reference, model = restless
    how: dict[str, Any] = {"reference": reference} if described == "reference" else {}
    if described == "config":
        model = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, sample_size=8)
    elif described == "skeleton":
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
    converted = prismify.convert(model)
    assert after(lambda: prismify.save(converted, tmp_path / "out", **how)) == undisturbed_draw
    assert after(lambda: prismify.load(tmp_path / "out", trust_code=True)) == undisturbed_draw


def test_looking_at_a_model_moves_no_generator(restless: tuple[str, nn.Module], undisturbed_draw: Drawn) -> None:
    _, model = restless
    assert after(lambda: prismify.scan(model)) == undisturbed_draw


def test_a_conversion_draws_its_new_weights_and_nothing_else(
    restless: tuple[str, nn.Module], undisturbed_draw: Drawn
) -> None:
    _, model = restless
    plan = prismify.scan(model)
    python, of_numpy, of_torch = after(lambda: prismify.convert(model, plan))
    assert (python, of_numpy) == undisturbed_draw[:2]
    unchecked: list[Tensor] = [torch.tensor(after(lambda: prismify.convert(model, plan, check=False))[2])]
    assert unchecked == [torch.tensor(of_torch)]  # checking it draws nothing


def test_kept_generators_come_back_after_an_error() -> None:
    seed_generators(7)
    state = random.getstate()
    with pytest.raises(ZeroDivisionError), kept_generators():
        random.seed(1 // (drawn()[0] < 0))
    assert random.getstate() == state
    assert drawn() == after(lambda: None)
