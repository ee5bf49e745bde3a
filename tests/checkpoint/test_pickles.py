"""Pickles are read without running them: known modules come back, anything else is refused by name."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import diffusers
import pytest
import timm
import torch
import torchvision
from diffusers.configuration_utils import FrozenDict
from torch import nn

from prismify.checkpoint.formats import read_pickle, read_weights
from prismify.checkpoint.formats.pickles import Inert
from prismify.errors import SourceError, UnsafePickleError

PACKAGE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x)

class Other(Net):
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package in the current folder, which is not on the path."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    return name


def pickled_module(package: str, *classes: str) -> Path:
    """A file that holds one module of each class, written as if by somebody else."""
    scope: dict[str, Any] = {"__name__": package}
    exec(PACKAGE, scope)
    stand_in = type(torch)(package)
    stand_in.__dict__.update(scope)
    import sys

    sys.modules[package] = stand_in
    try:
        torch.save(nn.ModuleList(scope[name]() for name in classes), "module.pt")
    finally:
        del sys.modules[package]
    return Path("module.pt")


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sequential": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()),
    "data_parallel": lambda: nn.DataParallel(nn.Linear(3, 4)),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, batch_first=True), 2),
    "lstm": lambda: nn.LSTM(4, 5),
    "torchvision": lambda: torchvision.models.squeezenet1_1(),
    "timm": lambda: timm.create_model("test_vit"),
    "timm_conv": lambda: timm.create_model("test_efficientnet"),
    "diffusers": lambda: diffusers.AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                                                   num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)),
    "attention_processors": lambda: diffusers.FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=1, attention_head_dim=16, axes_dims_rope=(4, 4, 8),
        joint_attention_dim=8, pooled_projection_dim=8, in_channels=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_known_libraries_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    model = MODULES[name]()
    torch.save(model, tmp_path / "m.pt")
    read = read_pickle(tmp_path / "m.pt")
    assert type(read) is type(model)
    assert str(read) == str(model)
    assert read.training == model.training
    for (key, value), (other, same) in zip(model.state_dict().items(), read.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(value, same)


def test_a_diffusers_config_comes_back_frozen(tmp_path: Path) -> None:
    model = MODULES["diffusers"]()
    torch.save(model, tmp_path / "m.pt")
    config = read_pickle(tmp_path / "m.pt").config
    assert type(config) is FrozenDict
    assert config == model.config
    assert config.latent_channels == model.config.latent_channels
    with pytest.raises(Exception, match="cannot use"):
        config.pop("latent_channels")


@pytest.mark.usefixtures("package")
def test_a_class_of_yours_is_refused_by_name_with_its_flag(package: str) -> None:
    with pytest.raises(UnsafePickleError, match=rf"holds {package}\.Net, .*nothing was run.*--allow {package}\.Net"):
        read_pickle(pickled_module(package, "Net"))


def test_a_class_of_yours_can_be_allowed_from_the_current_folder(package: str) -> None:
    read = read_pickle(pickled_module(package, "Net"), allow=[f"{package}.Net"])
    assert type(read[0]).__name__ == "Net"


def test_allowing_one_class_allows_no_other(package: str) -> None:
    file = pickled_module(package, "Net", "Other")
    with pytest.raises(UnsafePickleError) as caught:
        read_pickle(file, allow=[f"{package}.Net"])
    assert f"{package}.Other" in str(caught.value)
    assert f"{package}.Net" not in str(caught.value)


def test_an_allowed_class_that_is_not_here_is_said_to_be_missing(package: str) -> None:
    file = pickled_module(package, "Net")
    Path(f"{package}.py").unlink()
    with pytest.raises(UnsafePickleError, match="allowed but cannot be imported here"):
        read_pickle(file, allow=[f"{package}.Net"])
    with pytest.raises(SourceError, match="needs a class that is not here"):
        read_pickle(file, trust=True)


def test_a_trusted_file_needs_no_list(package: str) -> None:
    assert len(read_pickle(pickled_module(package, "Net", "Other"), trust=True)) == 2


def test_what_training_scripts_leave_behind_is_not_made(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1.0), "state_dict": {"w": torch.ones(2)}}, tmp_path / "c.pt")
    with pytest.raises(UnsafePickleError, match=r"--allow argparse\.Namespace"):
        read_pickle(tmp_path / "c.pt")
    assert isinstance(read_pickle(tmp_path / "c.pt", inert=True)["args"], Inert)
    assert read_pickle(tmp_path / "c.pt", allow=["argparse.Namespace"])["args"].lr == 1.0
    state = read_weights(tmp_path / "c.pt")
    assert isinstance(state, dict)
    assert torch.equal(state["w"], torch.ones(2))


class Payload:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(marker: Path) -> dict[str, Payload]:
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, command),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "popen": Payload(subprocess.Popen, ["touch", str(marker)]),
        "graph_module": Payload(torch.fx.graph_module.reduce_graph_module, {"_code": code}, ""),
    }


NAMES = ["os.system", "eval", "exec", "popen", "graph_module"]


def legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def protocol_4(content: Any, file: Path) -> None:
    torch.save(content, file, pickle_protocol=4)


def bare(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def polyglot(content: Any, file: Path) -> None:
    """Reads as a pickle from the front and as a zip archive from the back."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("data.pkl", pickle.dumps({}))
    file.write_bytes(pickle.dumps(content, protocol=2) + archive.getvalue())


@pytest.mark.parametrize("write", [torch.save, legacy, protocol_4, bare, polyglot], ids=lambda f: f.__name__)
@pytest.mark.parametrize("nested", [False, True], ids=["top", "nested"])
@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pickle_is_refused_and_does_not_run(
    tmp_path: Path, name: str, nested: bool, write: Callable[..., None]
) -> None:
    payload = payloads(tmp_path / "marker")[name]
    content = {"weight": torch.ones(2), "deep": {"er": [payload]}} if nested else payload
    write(content, tmp_path / "evil.pt")
    with pytest.raises((UnsafePickleError, SourceError)) as caught:
        read_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()
    assert str(tmp_path / "evil.pt") in str(caught.value)
    assert "--allow" not in str(caught.value)


@pytest.mark.parametrize("name", ["os.system", "eval", "popen"])
@pytest.mark.parametrize("write", [torch.save, legacy], ids=["zip", "legacy"])
def test_what_python_can_do_cannot_be_allowed(tmp_path: Path, name: str, write: Callable[..., None]) -> None:
    write(payloads(tmp_path / "marker")[name], tmp_path / "evil.pt")
    allow = ["os.system", "posix.system", "builtins.eval", "eval", "__builtin__.eval", "subprocess.Popen"]
    with pytest.raises(UnsafePickleError, match="do not trust this file"):
        read_weights(tmp_path / "evil.pt", allow=allow)
    assert not (tmp_path / "marker").exists()


def test_the_payloads_would_have_run(tmp_path: Path) -> None:
    """What the tests above show not to happen does happen without protection."""
    for name in ("os.system", "eval", "exec"):
        torch.save(payloads(tmp_path / name)[name], tmp_path / "evil.pt")
        read_pickle(tmp_path / "evil.pt", trust=True)
        assert (tmp_path / name).exists()


def test_a_graph_module_is_code(tmp_path: Path) -> None:
    torch.save(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))), tmp_path / "g.pt")
    with pytest.raises(UnsafePickleError, match="only --trust-pickle reads"):
        read_pickle(tmp_path / "g.pt", allow=["torch.fx.graph_module.reduce_graph_module"])


def test_a_whole_module_in_the_old_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    legacy(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(UnsafePickleError, match=r"before torch 1\.6.*--trust-pickle.*state_dict"):
        read_pickle(tmp_path / "m.pt")
    assert isinstance(read_pickle(tmp_path / "m.pt", trust=True), nn.Linear)


def test_a_state_dict_in_the_old_format_is_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    legacy(model.state_dict(), tmp_path / "m.pt")
    state = read_weights(tmp_path / "m.pt")
    assert isinstance(state, dict)
    assert torch.equal(state["weight"], model.weight)


def test_an_old_file_with_a_harmless_class_names_it(tmp_path: Path) -> None:
    legacy({"args": argparse.Namespace(), "state_dict": {"w": torch.ones(1)}}, tmp_path / "m.pt")
    with pytest.raises(UnsafePickleError, match=r"--allow argparse\.Namespace"):
        read_pickle(tmp_path / "m.pt")
    assert read_weights(tmp_path / "m.pt")
    assert read_weights(tmp_path / "m.pt", allow=["argparse.Namespace"])


@pytest.mark.filterwarnings("ignore:`torch.jit.:FutureWarning")  # torch's, about the format this test is about
@pytest.mark.parametrize("trust", [False, True])
def test_torchscript_is_refused_with_the_way_out(tmp_path: Path, trust: bool) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "m.pt")
    with pytest.raises(SourceError, match=r"TorchScript.*state_dict\(\).*--model"):
        read_pickle(tmp_path / "m.pt", trust=trust)


@pytest.mark.parametrize("keep", [0, 1, 30, 200, 0.5, 0.99])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, keep: float) -> None:
    torch.save({"weight": torch.randn(64, 64)}, tmp_path / "m.pt")
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(SourceError, match="damaged"):
        read_weights(tmp_path / "m.pt")


def test_every_flipped_byte_of_the_pickle_is_survived(tmp_path: Path) -> None:
    """Whatever a damaged file does, it is an error of prismify's or a state dict, never a crash."""
    torch.save({"a": torch.ones(1)}, tmp_path / "m.pt")
    content = bytearray((tmp_path / "m.pt").read_bytes())
    start = content.index(b"\x80\x02")
    for position in range(start, start + 120):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        (tmp_path / "m.pt").write_bytes(bytes(flipped))
        with suppress(SourceError):
            assert isinstance(read_weights(tmp_path / "m.pt"), dict)
