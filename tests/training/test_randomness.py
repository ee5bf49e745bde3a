"""Models that draw while they train: what a step draws depends on the seed and the step alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prismify.errors import RecipeError
from prismify.training.engine import read_state
from tests.training.test_resume import records

#: Dropout, and layers that are passed by at random, as some models do it.
DRAWING = """
import random

import numpy as np
import torch
from torch import nn


class Drawing(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by
        self.enter, self.inner = nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.leave = nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def encode(self, x):
        x = self.enter(x)
        share = {"torch": 1.0, "python": random.random(), "numpy": np.random.rand()}[self.by]
        x = x + share * self.norm(self.inner(x))
        return nn.functional.dropout(x, 0.2, self.training) if self.by == "torch" else x

    def decode(self, z):
        return self.leave(z)
"""


@pytest.mark.parametrize("by", ["torch", "python", "numpy"])
def test_a_run_that_is_taken_up_draws_what_it_would_have(
    tmp_path: Path, recipe: Callable[..., Any], train: Callable[..., Any], by: str
) -> None:
    (tmp_path / "drawing.py").write_text(DRAWING)
    model = {"source": f"{tmp_path / 'drawing.py'}:Drawing", "arguments": {"by": by}}
    options, unmeasured = {"accumulation": 2, "steps": 4}, {"validation": 0}
    whole, _ = train(recipe(model=model, data=unmeasured, train=options, output=str(tmp_path / "whole")))
    half = recipe(model=model, data=unmeasured, train=options | {"steps": 2}, output=str(tmp_path / "halves"))
    train(half)
    halves, told = train(recipe(model=model, data=unmeasured, train=options, output=half["output"]))
    assert any(event.text == "going on from step 2" for event in told)
    assert len(records(whole)) == 4
    assert records(whole) == records(halves)
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, halves))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("stop", "start"), [(2, 2), (3, 2)])
def test_a_judge_that_has_learned_nothing_is_made_again_from_the_seed(
    tmp_path: Path, recipe: Callable[..., Any], train: Callable[..., Any], stop: int, start: int
) -> None:
    judge = {"adversarial": 0.5, "adversarial_start": start, "discriminator": {"channels": 8, "layers": 1}}
    sections = {"loss": judge, "data": {"validation": 0}}
    whole, _ = train(recipe(train={"steps": 4}, output=str(tmp_path / "whole"), **sections))
    half = recipe(train={"steps": stop}, output=str(tmp_path / "halves"), **sections)
    halves, _ = train(half)
    assert ("judge" in read_state(halves / "state", stop)["parts"]) == (stop > start)
    train(recipe(train={"steps": 4}, output=half["output"], **sections))
    assert "logits_real" in records(whole)[-1]
    assert records(whole) == records(halves)
    one, other = (read_state(folder / "state", 4)["parts"]["judge"] for folder in (whole, halves))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_judge_may_join_later_and_is_kept_when_it_is_told_to_wait_again(
    recipe: Callable[..., Any], train: Callable[..., Any]
) -> None:
    judge = {"adversarial": 0.5, "discriminator": {"channels": 8, "layers": 1}}
    train(recipe(train={"steps": 1}))
    folder, told = train(recipe(train={"steps": 2}, loss=judge))
    assert any("loss.adversarial was 0.0, is 0.5" in event.text for event in told)
    learned = read_state(folder / "state", 2)["parts"]["judge"]
    train(recipe(train={"steps": 3}, loss={**judge, "adversarial_start": 100}))
    kept = read_state(folder / "state", 3)["parts"]["judge"]
    assert all(torch.equal(value, kept[name]) for name, value in learned.items())
    with pytest.raises(RecipeError, match="holds a run without or with judge"):
        train(recipe(train={"steps": 4}))


def test_a_run_moves_no_generator_of_the_script_that_starts_it(
    recipe: Callable[..., Any], train: Callable[..., Any]
) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    train(recipe(train={"steps": 1}))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
