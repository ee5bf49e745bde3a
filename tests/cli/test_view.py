"""`prismify view`: what the page's functions give, and that it listens on this machine alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prismify.cli.main import app
from typer.testing import CliRunner

import prismify
from prismify.metrics.pairs import compared
from prismify.training.schema import Data

ROOT = Path(__file__).parents[2]
BALLOONS = ROOT / "examples" / "images" / "balloons.png"
CPU = torch.device("cpu")


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_picture_stands_beside_its_reconstruction() -> None:
    with Image.open(BALLOONS) as picture:
        found = compared(prismify.load("cifar10-ae-64").eval(), picture, Data(), CPU)
    assert found.original.shape == found.reconstruction.shape
    np.testing.assert_array_equal(found.original, pixels(BALLOONS))
    error = np.square(found.reconstruction / 255.0 - found.original / 255.0).mean()
    assert found.decibels == pytest.approx(-10 * np.log10(error), abs=0.05)
    assert found.difference.max() == 255


ASK = """
import sys
from gradio_client import Client, handle_file
client = Client(sys.argv[1], verbose=False, download_files="{place}")
{calls}
"""


@contextmanager
def shown(model: str, folder: Path) -> Iterator[str]:
    """The address of a model's page, while it is there."""
    pytest.importorskip("gradio")
    code = f"import prismify; prismify.__path__.append({str(ROOT)!r}); from prismify.cli.main import app; app()"
    command = [sys.executable, "-c", code, "view", model]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(folder)}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where the tests themselves run under nohup
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith(f"{model} is on http://127.0.0.1:"), process.stderr
            yield line.split(" is on ")[1].split()[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def asked(address: str, calls: str, folder: Path) -> list[str]:
    """What a client prints that calls the page as a browser does."""
    code = ASK.format(place=folder, calls=calls)
    ran = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_a_page_reconstructs_what_is_dropped(tmp_path: Path) -> None:
    with shown("cifar10-ae-64", tmp_path) as address:
        call = f"print(*client.predict(handle_file({str(BALLOONS)!r}), api_name='/see'), sep='\\n')"
        *pictures, text = asked(address, call, tmp_path)
    assert [pixels(path).shape for path in pictures] == [pixels(BALLOONS).shape] * 3
    assert text.endswith(" dB, 248×186 pixels")


@pytest.mark.slow
def test_a_page_draws_the_same_pictures_from_the_same_seed(tmp_path: Path) -> None:
    with shown("mnist-ddpm-64", tmp_path) as address:
        call = "for seed in (1, 1, 2): print(*(p['image'] for p in client.predict(seed, 2, 2, api_name='/draw')))"
        drawn = [line.split() for line in asked(address, call, tmp_path)]
    first, again, other = ([pixels(path) for path in paths] for paths in drawn)
    assert len(first) == 2
    np.testing.assert_array_equal(first, again)
    assert np.any(first[0] != other[0])


def test_what_cannot_be_shown_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    ran = CliRunner().invoke(app, ["view", str(tmp_path / "nothing")])
    assert ran.exit_code == 1
    assert ran.stderr.splitlines()[-1].startswith("prismify: ")
    assert "nothing" in ran.stderr.splitlines()[-1]
