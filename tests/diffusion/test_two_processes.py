"""Two processes train a denoiser to what one does, its latents and its teacher included."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from .conftest import UNET

ROOT = Path(__file__).parents[2]
CLI = (
    f"import sys, prismify; prismify.__path__.append({str(ROOT)!r}); sys.argv[0] = 'prismify'; "
    "from prismify.cli.main import app; app()"
)


@pytest.mark.slow
def test_two_processes_train_to_the_same_weights_as_one(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    arguments = {**UNET, "sample_size": 8}
    content = recipe(
        model={"arguments": arguments},
        autoencoder={"source": "cifar10-ae-64"},
        data={"size": 32, "flip": True},
        distil={"task": 0.5},
        # A bias in front of a group norm has no gradient but rounding, which Adam's usual eps would blow up to steps.
        train={"steps": 8, "clip": 1.0, "ema": None, "eps": 1e-5},
        teacher={"source": "diffusers:UNet2DModel", "arguments": arguments},
        log={"every": 4, "validate_every": 4, "images": 0},
        latents={"batch_size": 8},
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    made = {}
    for processes in (1, 2):
        words = ["train", "recipe.yaml", "--set", f"output={processes}", "--processes", str(processes)]
        ran = subprocess.run(
            [sys.executable, "-c", CLI, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("making latents: shard 1 of 1") == 2  # to train on, and held out; once each
        made[processes] = load_file(tmp_path / str(processes) / "model" / "model.safetensors")
    one, two = made[1], made[2]
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
