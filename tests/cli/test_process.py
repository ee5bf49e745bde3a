"""What only a fresh process shows: imports, full disks, signals."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMITED = """
import resource, shutil
from pathlib import Path
from typer.testing import CliRunner
from prismify.cli.main import app

def convert():
    result = CliRunner().invoke(app, ["convert", "net.py:make", "-o", "deep/out"])
    return result.exit_code, result.stderr.strip()

before = set(Path(".").rglob("*"))
assert convert()[0] == 0
sizes = {path.stat().st_size: path.name for path in Path("deep/out").iterdir()}
shutil.rmtree("deep")
for size in sorted(sizes):  # just too small for this file: each is the one that does not fit any more
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))
    code, message = convert()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(code, set(Path(".").rglob("*")) == before, message)
"""


def test_a_disk_that_fills_while_writing_is_one_line_and_leaves_nothing(
    tmp_path: Path, net: Path, python: Callable[..., Any]
) -> None:
    ran = python(LIMITED, cwd=tmp_path)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert len(lines) >= 6  # one for each file of the folder
    for line in lines:
        code, clean, message = line.split(" ", 2)
        assert (code, clean) == ("1", "True"), line
        assert message.startswith(f"prismify: {tmp_path / 'deep' / 'out'} could not be written: "), line
        assert message.endswith("; nothing was left"), line


def test_help_and_version_import_no_torch(python: Callable[..., Any]) -> None:
    code = """
import sys
from prismify.cli.main import app
commands = ("scan", "convert", "report", "train", "evaluate", "reconstruct", "recipes")
for words in (["--help"], ["--version"], *([command, "--help"] for command in commands)):
    try:
        app(words)
    except SystemExit as end:
        assert end.code == 0
heavy = {"torch", "numpy", "diffusers", "timm", "torchvision", "safetensors", "accelerate", "yaml"} & set(sys.modules)
print("heavy", sorted(heavy))
"""
    ran = python(code)
    assert ran.out.splitlines()[-1] == "heavy []"
    assert "scan" in ran.out
    assert "prismify 0." in ran.out


ENDED = """
import os, signal
import prismify.checkpoint.folder as module

def end(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)

module.write_json = end
"""


def test_a_batch_systems_signal_leaves_nothing(tmp_path: Path, net: Path, process: Callable[..., Any]) -> None:
    before = set(tmp_path.rglob("*"))
    ran = process("convert", "net.py:make", "-o", "out", setup=ENDED, cwd=tmp_path)
    assert ran.code == 143
    assert ran.err == ""
    assert set(tmp_path.rglob("*")) == before


def test_a_small_disk_that_is_really_full(tmp_path: Path, run: Callable[..., Any]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        line = run("convert", "timm:test_resnet", "-o", disk / "deep" / "out").line
        assert "No space left on device" in line
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
