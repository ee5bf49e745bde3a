"""Several processes train to what one does."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda s: s.name)
def test_a_signal_to_the_launcher_stops_all_after_a_state_was_written(
    number: signal.Signals, tmp_path: Path, recipe: Callable[..., Any]
) -> None:
    recipe(
        train={"steps": 100_000, "ema": None},
        log={"every": 1, "validate_every": 1_000_000, "tensorboard": False},
        checkpoint={"every": 1_000_000},
    )
    command = [sys.executable, "-c", CLI, "train", "recipe.yaml", "--set", "output=out", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "out" / "metrics.jsonl"
    heard = functools.partial(signal.signal, number, signal.SIG_DFL)  # where the tests themselves run under nohup
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        limit = time.monotonic() + 120
        while not (log.is_file() and log.read_text().count("\n") > 1):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert len(children) >= 2
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    (state,) = (tmp_path / "out" / "state").glob("*")
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert str(last) in state.name
    more = prismify("train", "recipe.yaml", "--set", "output=out", "--set", f"train.steps={last + 2}", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert f"step {last + 2}:" in more.stderr


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
