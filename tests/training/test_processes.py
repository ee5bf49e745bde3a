"""Several processes train to what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CLI = (
    f"import sys, prismify; prismify.__path__.append({str(ROOT)!r}); sys.argv[0] = 'prismify'; "
    "from prismify.cli.main import app; app()"
)


def prismify(*words: object, cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, *(["-c", CLI] if not launcher else []), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.slow
def test_two_gloo_processes_train_to_the_same_weights_as_one(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    # A bias in front of a group norm has no gradient but rounding, which Adam's usual eps would blow up to steps.
    recipe(
        train={"steps": 20, "clip": 1.0, "ema": None, "eps": 1e-5},
        loss={"adversarial": 0.5, "adversarial_start": 8, "discriminator": {"channels": 8, "layers": 1}},
        log={"every": 5, "validate_every": 10, "tensorboard": False},
    )
    one = prismify("train", "recipe.yaml", "--set", "output=one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    two = prismify("train", "recipe.yaml", "--set", "output=two", "--processes", 2, cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert "batch 8 = 2 processes x 1 part x 4 images" in two.stderr
    assert two.stderr.count("learning rate 0.003") == 1
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((first[k] - second[k]).abs().max()) for k in first) < 1e-5
    # The comparison can fail: twenty steps move the weights by far more than that.
    start = load_file(Path(recipe()["model"]["source"]) / "model.safetensors")
    assert max(float((first[k] - start[k]).abs().max()) for k in first) > 1e-2


def test_torchrun_starts_the_same_recipe(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    recipe(train={"steps": 2, "accumulation": 2}, log={"every": 1, "validate_every": 2, "tensorboard": False})
    script = tmp_path / "start.py"
    script.write_text(CLI)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    ran = prismify("train", "recipe.yaml", cwd=tmp_path, launcher=launcher)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "batch 8 = 2 processes x 2 parts x 2 images" in ran.stderr
    assert (tmp_path / "run" / "model" / "prismify.json").is_file()


def test_accelerate_launch_starts_the_same_recipe(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    recipe(train={"steps": 2}, log={"every": 1, "validate_every": 2, "tensorboard": False})
    script = tmp_path / "start.py"
    script.write_text(CLI)
    # On CPUs Accelerate leaves several processes to MPI.
    options = ("--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no")
    launcher = ("-m", "accelerate.commands.launch", *options, str(script))
    ran = prismify("train", "recipe.yaml", cwd=tmp_path, launcher=launcher)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "batch 8 = 1 process x 1 part x 8 images" in ran.stderr


def test_what_stops_every_process_is_one_line(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    recipe(data={"path": "nowhere"})
    ran = prismify("train", "recipe.yaml", "--processes", 2, cwd=tmp_path)
    assert ran.returncode == 1
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].endswith("nowhere: no such file or folder")
