"""Run the command line: in this process where that is enough, in a fresh one where it matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
_START = f"import prismify; prismify.__path__.append({str(ROOT)!r})\n"
#: Files that the tests' factories come from.
NET = """
from torch import nn

def make(width=16, final=True):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1) if final else nn.Identity())
"""


@dataclass(frozen=True)
class Ran:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line of an error, without its prefix."""
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("prismify: "), self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("prismify: ")


@pytest.fixture(scope="session")
def run() -> Callable[..., Ran]:
    """`run("scan", source, ...)` in this process."""
    from prismify.cli.main import app

    def invoke(*arguments: object) -> Ran:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture(scope="session")
def python() -> Callable[..., Ran]:
    """`python(code)` in a fresh process in which prismify, installed or not, is importable."""

    def start(
        code: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> Ran:
        # Sums are split among threads, so results are the same only with as many.
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **threads, **(env or {})}
        done = subprocess.run(
            [sys.executable, *options, "-c", _START + code], cwd=cwd, env=environment, capture_output=True, text=True
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return start


@pytest.fixture(scope="session")
def process(python: Callable[..., Ran]) -> Callable[..., Ran]:
    """`process("scan", source, ...)` in a fresh process."""

    def start(*arguments: object, setup: str = "", **how: Any) -> Ran:
        words = [str(a) for a in arguments]
        return python(f"{setup}\nfrom prismify.cli.main import app\napp({words!r})", **how)

    return start


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A Python file with a small factory, `make`."""
    file = tmp_path / "net.py"
    file.write_text(NET)
    return file
