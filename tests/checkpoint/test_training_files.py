"""Weights as training scripts leave them: under any key, in wrappers, averaged, beside objects of other libraries."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prismify
from prismify.checkpoint import open_source
from prismify.checkpoint.layouts import Selection
from prismify.errors import SourceError

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sequential(nn.Conv2d(16, 16, 3)))
        self.decoder = nn.Conv2d(16, 3, 3)

    def forward(self, x):
        return self.decoder(self.encoder(x))
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    made: nn.Module = open_source("net.py:Net").build()
    return {name: value.detach().clone() for name, value in made.state_dict().items()}


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def check(content: Any, wanted: dict[str, torch.Tensor], **select: Any) -> None:
    for legacy in (False, True):
        torch.save(content, "w.ckpt", _use_new_zipfile_serialization=not legacy)
        found = open_source("w.ckpt", model="net.py:Net", select=Selection(**select)).build().state_dict()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"net": s, "acc": 0.9},
        lambda s: {"network": {"weights": s}},
        lambda s: {"model": {"state_dict": s, "config": {"a": 1}}},
        lambda s: {"checkpoint": {"state_dict": under("model.", s)}},
        lambda s: {"generator": s, "discriminator": {"a": torch.ones(2)}, "optimizer": {"state": {0: under("x.", s)}}},
        lambda s: under("module._orig_mod.", s),
        lambda s: {k.replace("encoder.", "encoder._orig_mod."): v for k, v in s.items()},
        lambda s: {k.replace("encoder.1.", "encoder.1._checkpoint_wrapped_module."): v for k, v in s.items()},
        lambda s: {**under("module.", s), "n_averaged": torch.tensor(3), "betas": torch.ones(4)},
        lambda s: {k.replace("encoder.", "encoder._fsdp_wrapped_module.module."): v for k, v in s.items()},
    ],
)
def test_a_state_dict_is_found_wherever_it_lies(state: dict[str, torch.Tensor], wrap: Any) -> None:
    check(wrap(state), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw, ema: {"model": raw, "ema": {**under("online_model.", raw), **under("ema_model.", ema)}},
        lambda raw, ema: {"model": raw, "ema": {**under("online_model.model.", raw), **under("ema_model.model.", ema)}},
        lambda raw, ema: {"checkpoint": {"model": raw, "ema": ema}},
        lambda raw, ema: {"state_dict": raw, "callbacks": {"EMA": {"ema_state_dict": ema}}},
        lambda raw, ema: {"g": raw, "g_ema": ema},
    ],
)
def test_the_averaged_weights_are_taken_in_every_layout(state: dict[str, torch.Tensor], wrap: Any) -> None:
    ema = {name: value + 1 for name, value in state.items()}
    check(wrap(state, ema), ema, ema=True)


def test_averaged_weights_that_are_not_there_are_an_error(state: dict[str, torch.Tensor]) -> None:
    for content in (state, {"model": state}, {"net": {"inner": state}}):
        torch.save(content, "w.ckpt")
        with pytest.raises(SourceError, match="holds no averaged"):
            open_source("w.ckpt", model="net.py:Net", select=Selection(ema=True)).build()


def test_several_models_are_listed_and_chosen_by_prefix(state: dict[str, torch.Tensor]) -> None:
    other = {name: value + 1 for name, value in state.items()}
    content = {"first": state, "second": {"weights": other}}
    torch.save(content, "w.ckpt")
    with pytest.raises(SourceError, match=r"first\. \(6 tensors\), second\.weights\. \(6 tensors\); choose"):
        open_source("w.ckpt", model="net.py:Net").build()
    check(content, other, prefix="second.weights")
    check({"state_dict": state, "teacher": other}, other, prefix="teacher.")


def test_settings_of_other_libraries_are_data(state: dict[str, torch.Tensor]) -> None:
    library = types.ModuleType("settingslib")
    code = "class Node(dict): pass\nclass Items(list): pass\nclass Plain:\n  def __init__(self): self.a = 1"
    exec(code, library.__dict__)
    for name in ("Node", "Items", "Plain"):
        vars(library)[name].__module__ = "settingslib"
    sys.modules["settingslib"] = library
    try:
        node = library.Node(a=library.Items([1, library.Node(b=2)]))
        node.frozen = True
        for settings in (node, library.Items([1]), library.Plain(), {library.Plain: {"best": 1}}):
            check({"state_dict": state, "hyper_parameters": settings}, state)
    finally:
        del sys.modules["settingslib"]


def test_a_tied_weight_of_two_values_is_an_error(state: dict[str, torch.Tensor]) -> None:
    tied = NET.replace("    def forward", "        self.again = self.encoder[0]\n\n    def forward")
    Path("tied.py").write_text(tied)
    same = {**state, **{f"again.{n}": state[f"encoder.0.{n}"].clone() for n in ("weight", "bias")}}
    torch.save(same, "w.ckpt")
    open_source("w.ckpt", model="tied.py:Net").build()
    torch.save({**same, "again.bias": same["again.bias"] + 1}, "w.ckpt")
    with pytest.raises(SourceError, match=r"different numbers for encoder\.0\.bias and again\.bias"):
        open_source("w.ckpt", model="tied.py:Net").build()


class Old(nn.Sequential):
    """Written before load_state_dict had `assign`."""

    def load_state_dict(self, state_dict, strict=True):
        return super().load_state_dict(state_dict, strict=strict)

    def squash(self, x):
        return x


def test_what_save_writes_load_reads(tmp_path: Path) -> None:
    import numpy as np

    name = f"{Old.__module__}.{Old.__qualname__}"
    for held in (
        "method",
        torch.tanh,
        nn.functional.conv2d,
        slice(1, 2),
        np.float64(0.5),
        np.arange(3),
        np.dtype("int8"),
    ):
        widths = np.array([3, 16, 16, 3])
        net = Old(*(nn.Conv2d(widths[i], widths[i + 1], 3) for i in range(3)))
        net.held = net.squash if isinstance(held, str) else held
        small = prismify.convert(net, args=(torch.randn(1, 3, 16, 16),))
        prismify.save(small, tmp_path / "out", force=True)
        loaded = prismify.load(tmp_path / "out", allow=[name])
        assert type(loaded.held) is type(small.held)
        if isinstance(held, str):
            assert loaded.held.__self__ is loaded
        elif not isinstance(held, np.ndarray):
            assert loaded.held == small.held


@pytest.mark.parametrize("held", [len, print, torch.load])
def test_what_load_would_refuse_is_refused_at_saving(tmp_path: Path, held: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
    net.held = held
    with pytest.raises(SourceError, match="give save a reference"):
        prismify.save(prismify.convert(net), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_a_model_of_old_norms_is_copied_saved_and_loaded(tmp_path: Path, norm: str) -> None:
    wrap = getattr(nn.utils, norm)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), wrap(nn.Conv2d(16, 16, 3)), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
    x = torch.randn(1, 3, 16, 16)
    net(x).mean().backward()  # leaves a weight that is the result of a call
    small = prismify.convert(net.eval(), args=(x,)).eval()
    prismify.save(small, tmp_path / "out")
    torch.testing.assert_close(prismify.load(tmp_path / "out")(x), small(x))
