"""What a file or a folder may make the command line run: nothing, unless a flag says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prismify

Run = Callable[..., Any]
MINE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.inner, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        return self.leave(self.inner(self.enter(x)))
"""


class Evil:
    """Pickles to a shell command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of the person's own and a pickled module of it."""
    import importlib
    import sys

    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        torch.save(importlib.import_module(name).Net(), tmp_path / "net.pt")
    del sys.modules[name]
    yield tmp_path
    sys.modules.pop(name, None)


def name_of(here: Path) -> str:
    return f"{next(here.glob('mine_*.py')).stem}.Net"


def test_a_class_of_yours_is_refused_and_can_be_allowed_all_the_way(here: Path, run: Run) -> None:
    name = name_of(here)
    line = run("convert", "net.pt", "-o", "out").line
    assert f"net.pt holds {name}, which could run code; nothing was run. Allow it with --allow {name}" in line
    assert "--trust-pickle" in line
    assert run("convert", "net.pt", "-o", "out", "--allow", "other.Class").code == 1
    assert run("scan", "net.pt", "--allow", name).code == 0
    assert run("convert", "net.pt", "-o", "out", "--allow", name).code == 0
    with pytest.raises(prismify.PrismifyError, match=f"--allow {name}"):
        prismify.load("out")
    assert prismify.load("out", allow=[name])
    assert f"--allow {name}" in run("convert", "out", "-o", "again", "--policy", "volumes").line


def test_a_trusted_pickle_is_read(here: Path, run: Run) -> None:
    assert run("convert", "net.pt", "-o", "out", "--trust-pickle").code == 0


@pytest.mark.parametrize("words", [["--model", "timm:test_resnet"], [], ["--allow", "posix.system"]], ids=str)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("command", ["scan", "convert"])
def test_a_malicious_pickle_does_not_run(here: Path, run: Run, words: list[str], legacy: bool, command: str) -> None:
    content = {"state_dict": {"weight": torch.ones(2)}, "config": [Evil(here / "ran")]}
    torch.save(content, "evil.pt", _use_new_zipfile_serialization=not legacy)
    ran = run(command, "evil.pt", *words, *(["-o", "out"] if command == "convert" else []))
    assert ran.code == 1
    assert "posix.system" in ran.line
    assert "nothing was run" in ran.line
    assert not (here / "ran").exists()
    assert not (here / "out").exists()


def test_a_malicious_example_input_does_not_run(here: Path, run: Run) -> None:
    torch.save([torch.ones(1, 3, 8, 8), Evil(here / "ran")], "input.pt")
    ran = run("scan", "timm:test_resnet", "--input", "input.pt")
    assert ran.code == 1
    assert "nothing was run" in ran.line
    assert not (here / "ran").exists()


def test_malicious_shards_do_not_run(here: Path, run: Run) -> None:
    import diffusers

    model = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    model.save_pretrained("vae", safe_serialization=False)
    torch.save({"weight": Evil(here / "ran")}, "vae/diffusion_pytorch_model.bin")
    assert "nothing was run" in run("convert", "vae", "-o", "out").line
    assert not (here / "ran").exists()


def test_a_folder_built_by_a_file_needs_trust_to_be_scanned_again(here: Path, run: Run) -> None:
    file = next(here.glob("mine_*.py"))
    assert run("convert", f"{file.name}:Net", "-o", "out").code == 0
    marker = here / "ran"
    (here / "out" / file.name).write_text(f"open({str(marker)!r}, 'w').close()\n{MINE}")
    for words in (["scan", "out"], ["convert", "out", "-o", "again"], ["report", "out"]):
        ran = run(*words)
        assert ran.code == (0 if words[0] == "report" else 1)
        assert words[0] == "report" or "--trust-code" in ran.line
    assert not marker.exists()
    assert run("scan", "out", "--trust-code").code == 0
    assert marker.exists()


AUTOENCODER = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.code, self.leave = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def encode(self, x):
        return self.code(self.inner(self.enter(x).relu()).relu())

    def decode(self, x):
        return self.leave(x)

    def forward(self, x):
        return self.decode(self.encode(x))
"""


@pytest.fixture
def built_by_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """The current folder: `out` is an autoencoder whose Python file leaves `ran`, `images` has pictures."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (16, 16), (90 * number, 20, 30)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "net.py").write_text(AUTOENCODER)
    assert run("convert", "net.py:Net", "-o", "out").code == 0
    (tmp_path / "out" / "net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{AUTOENCODER}")
    return tmp_path


def test_every_command_takes_the_flag_for_a_folder_that_code_builds(built_by_code: Path, run: Run) -> None:
    ran = built_by_code / "ran"
    for words in (
        ["evaluate", "out", "--data", "images"],
        ["reconstruct", "out", "images", "-o", "pages"],
        ["bench", "out", "--seconds", "0.001"],
    ):
        assert "out is built by net.py:Net, which runs Python code: load it with trust_code=True" in run(*words).line
        assert not ran.exists()
        assert run(*words, "--trust-code").code == 0, words
        ran.unlink()


@pytest.mark.parametrize("key", ["model.trust_code", "model.trust_pickle", "model.allow", "trust_code", "allow"])
def test_a_recipe_that_grants_trust_is_refused_by_the_flag_that_does(built_by_code: Path, run: Run, key: str) -> None:
    said = run("train", "demo", "--set", f"{key}=true", "--set", "output=run").line
    assert f"{key} is for the person to say, not for a file: drop it, and give --" in said
    assert not (built_by_code / "run").exists()


def test_a_teacher_that_a_manifest_spoils_is_one_line(built_by_code: Path, run: Run) -> None:
    import json

    manifest = json.loads(Path("out/prismify.json").read_text())
    for origin in (
        {"kind": "reference"},
        {"kind": "reference", "reference": "timm:resnet18", "arguments": ["x"]},
        {"kind": "reference", "reference": "timm:resnet18", "arguments": {"checkpoint_path": "x"}},
        {"kind": "weights", "path": "net.py", "reference": "net:Net"},
        {"kind": "prismify folder", "path": "os:system"},
    ):
        Path("out/prismify.json").write_text(json.dumps({**manifest, "source": origin}))
        words = ["--set", "model=out", "--set", "data.path=images", "--set", "output=run", "--set", "data.size=16"]
        line = run("train", "distil", *words, "--set", "train.device=cpu", "--set", "train.batch_size=2").line
        assert "unexpected" not in line, line
        assert not (built_by_code / "ran").exists()
