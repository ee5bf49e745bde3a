"""`save` and `load` from Python: how each model is described, and what a folder may make `load` do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import torchvision
from torch import Tensor, nn

import prismify
from prismify.errors import SourceError

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.enter, self.inner, self.leave = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3), nn.Conv2d(width, 3, 1)

    def forward(self, x):
        return self.leave(self.inner(self.enter(x)))
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def made(path: Path, **arguments: Any) -> nn.Module:
    scope: dict[str, Any] = {"__name__": "net_of_the_tests"}
    exec(path.read_text(), scope)
    model: nn.Module = scope["Net"](**arguments)
    return model.eval()


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "prismify.json").read_text())
    manifest["model"].update(changes)
    (folder / "prismify.json").write_text(json.dumps(manifest))


def kind_of(folder: Path) -> str:
    return str(json.loads((folder / "prismify.json").read_text())["model"]["kind"])


def test_a_library_model_needs_no_reference(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=3).eval()
    converted = prismify.convert(model)
    prismify.save(converted, tmp_path / "out")
    assert kind_of(tmp_path / "out") == "skeleton"
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(converted(x), prismify.load(tmp_path / "out")(x))
    assert (tmp_path / "out" / "skeleton.pt").stat().st_size < 200_000


TINY: dict[str, Any] = {
    "encoder_block_out_channels": (16, 16),
    "decoder_block_out_channels": (16, 16),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}


def test_a_diffusers_model_is_described_by_its_config(tmp_path: Path) -> None:
    converted = prismify.convert(diffusers.AutoencoderTiny(**TINY).eval())
    prismify.save(converted, tmp_path / "out")
    assert kind_of(tmp_path / "out") == "diffusers"
    loaded = prismify.load(tmp_path / "out")
    assert type(loaded) is diffusers.AutoencoderTiny
    assert json.loads(loaded.to_json_string()) == json.loads(converted.to_json_string())
    assert loaded.prismify_plan.layers == converted.prismify_plan.layers


def test_a_diffusers_model_that_was_changed_is_not_described_by_its_config(tmp_path: Path) -> None:
    model = diffusers.AutoencoderTiny(**TINY).eval()
    model.decoder.layers.insert(1, nn.Softplus())
    converted = prismify.convert(model)
    prismify.save(converted, tmp_path / "out")
    assert kind_of(tmp_path / "out") == "skeleton"
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(converted(x).sample, prismify.load(tmp_path / "out")(x).sample)


def test_a_reference_is_seen_to_build_the_model_when_saving(tmp_path: Path, net: Path) -> None:
    converted = prismify.convert(made(net, width=24))
    with pytest.raises(SourceError, match=r"enter: the plan says|inner: the plan says 24->24, the model has 16->16"):
        prismify.save(converted, tmp_path / "out", reference=f"{net}:Net")
    with pytest.raises(SourceError, match="the model has no such layer"):
        prismify.save(converted, tmp_path / "out", reference="torchvision:squeezenet1_1")
    assert not (tmp_path / "out").exists()
    prismify.save(converted, tmp_path / "out", reference=f"{net}:Net", arguments={"width": 24})
    assert prismify.load(tmp_path / "out", trust_code=True).enter.out_channels == 24


def test_a_reference_that_builds_another_model_is_refused(tmp_path: Path, net: Path) -> None:
    model = made(net)
    model.leave = nn.Sequential(model.leave, nn.Tanh())
    with pytest.raises(SourceError, match=r"does not build this model: module leave is Sequential here and Conv2d"):
        prismify.save(prismify.convert(model), tmp_path / "out", reference=f"{net}:Net")
    assert not (tmp_path / "out").exists()


class Mine(nn.Module):
    """A class of the person's own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.inner(self.enter(x)))
        return y


def test_a_class_of_yours_is_described_by_a_skeleton_and_must_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, Mine.__module__, sys.modules.get(Mine.__module__, sys.modules[__name__]))
    converted = prismify.convert(Mine().eval())
    prismify.save(converted, tmp_path / "out")
    name = f"{Mine.__module__}.Mine"
    with pytest.raises(SourceError, match=rf"--allow {name}"):
        prismify.load(tmp_path / "out")
    x = torch.randn(1, 3, 8, 8)
    for loaded in (prismify.load(tmp_path / "out", allow=[name]), prismify.load(tmp_path / "out", model=Mine())):
        with torch.no_grad():
            assert torch.equal(converted(x), loaded(x))
        assert not loaded.training


def test_a_model_that_cannot_be_pickled_says_what_to_do(tmp_path: Path, make_plain: Callable[..., Any]) -> None:
    model = make_plain()
    model.hook = lambda x: x
    with pytest.raises(SourceError, match="give save a reference to its factory"):
        prismify.save(prismify.convert(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_code_runs_only_when_trusted(tmp_path: Path, net: Path) -> None:
    prismify.save(prismify.convert(made(net)), tmp_path / "out", reference=f"{net}:Net")
    marker = tmp_path / "ran"
    (tmp_path / "out" / "net.py").write_text(f"open({str(marker)!r}, 'w').close()\n{NET}")
    with pytest.raises(SourceError, match=r"built by net\.py:Net, which runs Python code: .*trust_code=True"):
        prismify.load(tmp_path / "out")
    assert not marker.exists()
    prismify.load(tmp_path / "out", trust_code=True)
    assert marker.exists()


@pytest.mark.parametrize("reference", ["os:system", "posix:system", "builtins:exec", "evil:make", "evil.py:make",
                                       "diffusers.utils:x", "subprocess:Popen"])  # fmt: skip
def test_any_python_reference_asks_for_trust(saved: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = saved.parent / "ran"
    for folder in (saved, saved.parent):
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.chdir(saved.parent)
    edit(saved, kind="reference", reference=reference, arguments={"command": f"touch {marker}"})
    with pytest.raises(SourceError, match="runs Python code"):
        prismify.load(saved)
    assert not marker.exists()


@pytest.mark.parametrize("reference", ["../evil.py:make", "/abs/evil.py:make", "a/../../evil.py:make"])
def test_even_trusted_a_folder_runs_no_file_but_its_own(saved: Path, reference: str) -> None:
    (saved.parent / "evil.py").write_text("raise SystemError('ran')")
    edit(saved, kind="reference", arguments={}, reference=reference.replace("/abs", str(saved.parent)))
    with pytest.raises(SourceError, match=rf"{saved / 'evil.py'}: no such file"):
        prismify.load(saved, trust_code=True)


def test_a_folder_asks_no_library_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    converted = prismify.convert(timm.create_model("test_resnet").eval())
    prismify.save(converted, tmp_path / "out", reference="timm:test_resnet")
    secret = tmp_path / "elsewhere.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), secret)
    read: list[Any] = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: read.append(a))
    monkeypatch.setattr("timm.models._factory.load_checkpoint", lambda *a, **k: read.append(a))
    edit(tmp_path / "out", arguments={"pretrained": True, "checkpoint_path": str(secret)})
    assert prismify.load(tmp_path / "out")
    assert read == []


def test_loading_onto_a_device(saved: Path) -> None:
    assert {p.device.type for p in prismify.load(saved, device="meta").parameters()} == {"meta"}


def test_a_moved_folder_loads(saved: Path) -> None:
    moved = saved.rename(saved.parent / "moved")
    assert prismify.load(moved)


def test_loading_leaves_the_folder_as_it_is(tmp_path: Path, net: Path) -> None:
    prismify.save(prismify.convert(made(net)), tmp_path / "out", reference=f"{net}:Net")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*")}
    prismify.load(tmp_path / "out", trust_code=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*")} == before


def test_saving_again_what_was_loaded_writes_the_same_weights(saved: Path) -> None:
    prismify.save(prismify.load(saved), saved.parent / "again")
    assert (saved.parent / "again" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
