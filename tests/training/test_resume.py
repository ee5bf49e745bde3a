"""Killed at any moment and started again, a run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SPEED = {"seconds", "images_per_second", "gpu_memory_gib"}
#: Everything is imported once; each start is a fork, which is then killed, or left to end.
KILLER = """
import os, pathlib, random, signal, sys, time
import prismify
prismify.__path__.append(sys.argv[1])
import accelerate, diffusers, torch, torchvision
from torch.utils import tensorboard
import prismify.checkpoint, prismify.rewrite.module
from prismify.recipes import autoencoder, carry_out
from prismify.training.recipe import read_recipe
import prismify.training.engine.ending

def start(output):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            carry_out(read_recipe("recipe.yaml", ["output=" + output]))
            code = 0
        finally:
            os._exit(code)
    return pid

assert os.waitstatus_to_exitcode(os.waitpid(start("whole"), 0)[1]) == 0
draw = random.Random(int(sys.argv[2]))

def lines_since(moment):
    file = pathlib.Path("killed/metrics.jsonl")
    return file.read_text().count("\\n") if file.exists() and file.stat().st_mtime > moment else 0

kills = 0
while kills < 20:
    reached = max([int(p.name[5:]) for p in pathlib.Path("killed/state").glob("step-*")], default=0)
    moment, pid = time.time(), start("killed")
    wanted = reached + draw.choice([0, 0, 1, 2, 3, 4, 5, 6, 7])  # 0: while it is still starting
    while wanted > reached and lines_since(moment) < wanted and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 0.1 if wanted > reached else 1.0))
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    kills += 1
print("killed at step", reached)
assert os.waitstatus_to_exitcode(os.waitpid(start("killed"), 0)[1]) == 0
"""


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEED} for line in lines]


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path: Path, recipe: Callable[..., Any]) -> None:
    recipe(
        train={"steps": 50, "schedule": "cosine", "clip": 1.0},
        loss={"adversarial": 0.5, "adversarial_start": 8, "discriminator": {"channels": 8, "layers": 1}},
        log={"every": 1, "validate_every": 10, "tensorboard": True},
        checkpoint={"every": 3, "keep": 2},
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(ROOT), "0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    print(ran.stdout)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert len(records(whole)) == 55
    assert records(killed) == records(whole)
    for name in ("model", "best"):
        one, other = (load_file(folder / name / "model.safetensors") for folder in (whole, killed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    left = {p.name for p in killed.iterdir()} ^ {p.name for p in whole.iterdir()}
    assert not left
