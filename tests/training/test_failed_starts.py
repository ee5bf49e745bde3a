"""A run that never made a step leaves nothing behind, and takes nothing away."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from prismify.errors import PrismifyError
from prismify.training.engine import begin, processes, record, states
from tests.training.conftest import Recipe, Train

#: What the recipe asks for that is not there, in the order in which it is found out.
ASKED: dict[str, dict[str, Any]] = {
    "device": {"train": {"batch_size": 9, "accumulation": 2}},
    "images": {"data": {"path": "/nowhere"}},
    "validation": {"data": {"validation": 10_000}},
    "model": {"model": {"source": "torchvision:no_such_model"}},
    "kind of model": {"model": {"source": "torchvision:resnet18"}},
    "weights of a loss": {"loss": {"perceptual": 1.0, "lpips": {"weights": "/no.safetensors"}}},
    "size": {"data": {"size": 4}, "loss": {"adversarial": 1.0}},
}


def full(*arguments: object, **how: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def out_of_memory(*arguments: object) -> Any:
    raise MemoryError


#: What breaks when the start is nearly over: where, and how.
BROKEN: dict[str, tuple[Any, str, Any]] = {
    "the journal": (record, "Journal", full),
    "the facts": (begin, "write_json", full),
    "the first step": (processes.Processes, "backward", out_of_memory),
}


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def failing(name: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    if name in BROKEN:
        monkeypatch.setattr(*BROKEN[name])
    return recipe(**ASKED.get(name, {}), log={"tensorboard": True}, **more)


@pytest.mark.parametrize("name", [*ASKED, *BROKEN])
def test_a_start_that_fails_leaves_nothing(
    recipe: Recipe, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = failing(name, recipe, monkeypatch, output=str(tmp_path / "runs" / "deep" / "one"))
    with pytest.raises(PrismifyError):
        train(content)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_there_stays_and_is_empty(
    recipe: Recipe, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(PrismifyError):
        train(failing("the first step", recipe, monkeypatch))
    assert not list((tmp_path / "run").iterdir())


def test_a_name_that_no_disk_takes_leaves_no_parents(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    with pytest.raises(PrismifyError, match="File name too long"):
        train(recipe(output=str(tmp_path / "runs" / "deep" / ("x" * 300))))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["validation", "model", "size"])
def test_a_restart_that_fails_keeps_the_run_that_it_was_to_forget(
    recipe: Recipe, train: Train, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, _ = train(recipe(train={"steps": 1}))
    before = everything_in(folder)
    with pytest.raises(PrismifyError):
        train(failing(name, recipe, monkeypatch), restart=True)
    assert everything_in(folder) == before
    _, told = train(recipe(train={"steps": 1, "seed": 1}), restart=True)
    assert not any("going on" in event.text for event in told)
    assert states(folder / "state") == [1]
