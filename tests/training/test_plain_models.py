"""Models that are trained as they are, not converted: whatever they share, they are written and open again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prismify.checkpoint import Trust, open_source
from prismify.errors import SourceError
from prismify.training.finished import run_model

SHARING = """
import warnings

import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations

warnings.simplefilter("ignore", FutureWarning)
NORMS = {
    "weight norm": parametrizations.weight_norm, "weight norm of old": utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm, "spectral norm of old": utils.spectral_norm,
}


class Sharing(nn.Module):
    def __init__(self, how="tied"):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 6, 4, 2, 1), nn.ConvTranspose2d(6, 3, 4, 2, 1)
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        if how == "tied":
            self.two.weight, self.two.bias = self.one.weight, self.one.bias
            self.leave.weight = nn.Parameter(self.enter.weight.detach().permute(1, 0, 2, 3).reshape(6, 3, 4, 4))
        if how == "twice":
            self.two = self.one
        if how == "buffers":
            self.register_buffer("table", torch.arange(12.0).reshape(3, 4))
            self.register_buffer("column", self.table[:, 1])
        if how == "turned":
            self.one.weight = nn.Parameter(self.one.weight.detach().to(memory_format=torch.channels_last))
        if how == "sparse":
            self.register_buffer("table", torch.eye(3).to_sparse())
        if how in NORMS:
            self.one = NORMS[how](self.one)
        self.how = how

    def get_extra_state(self):
        return {"how": self.how}

    def set_extra_state(self, state):
        self.how = state["how"]

    def encode(self, x):
        return self.two(self.one(self.enter(x)))

    def decode(self, z):
        return self.leave(z)
"""
NORMS = ("weight norm", "weight norm of old", "spectral norm", "spectral norm of old")
#: No module without extra state says so: the methods go.
PLAIN = SHARING[: SHARING.index("    def get_extra_state")] + SHARING[SHARING.index("    def encode") :]


def source(tmp_path: Path, text: str, how: str) -> dict[str, Any]:
    (tmp_path / "sharing.py").write_text(text)
    return {"source": f"{tmp_path / 'sharing.py'}:Sharing", "arguments": {"how": how}}


@pytest.mark.parametrize("how", ["tied", "twice", "buffers", "turned", *NORMS])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_that_shares_memory_ends_its_run_and_opens_again(
    tmp_path: Path, recipe: Callable[..., Any], train: Callable[..., Any], how: str
) -> None:
    model = source(tmp_path, PLAIN, how)
    folder, told = train(recipe(model=model, train={"steps": 2}, data={"validation": 2}))
    assert any(event.text.startswith("done: ") for event in told)
    weights = folder / "model" / "model.safetensors"
    opened, named = run_model(folder, Trust(code=True))
    assert named == "best"
    state = load_file(weights)
    strict = type(opened)(how)  # as any script of one's own does it
    strict.load_state_dict(state)
    again = open_source(str(weights), model=model["source"], arguments=model["arguments"], trust_code=True).build()
    for found in (strict, again, run_model(folder / "model", Trust(code=True))[0]):
        assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    assert (again.two.weight is again.one.weight) == (how in ("tied", "twice"))


@pytest.mark.parametrize(
    ("how", "text", "why"),
    [
        ("tied", SHARING, r"_extra_state of the Sharing is a dict, which safetensors cannot hold"),
        ("sparse", PLAIN, r"table of the Sharing is a tensor of layout torch.sparse_coo"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_first_step(
    tmp_path: Path, recipe: Callable[..., Any], train: Callable[..., Any], how: str, text: str, why: str
) -> None:
    with pytest.raises(SourceError, match=why):
        train(recipe(model=source(tmp_path, text, how), train={"steps": 1}))
    assert not (tmp_path / "run").exists()
