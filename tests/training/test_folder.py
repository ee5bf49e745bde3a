"""A run's folder: what is in it already stays, whoever put it there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from prismify.errors import OutputError
from prismify.training.engine.written import RECORD_NAME
from tests.training.conftest import Recipe, Train

SHORT: dict[str, Any] = {"train": {"steps": 1}, "data": {"validation": 0}}


def test_a_folder_of_other_things_is_refused_and_left(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in (
        ".gitlab-ci.yml",
        ".pre-commit-config.yaml",
        ".cache.d/x",
        "images/holiday.png",
        "best/me",
        "report.md",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    before = sorted(p.relative_to(run) for p in run.rglob("*"))
    for restart in (False, True):
        with pytest.raises(OutputError, match="is not the folder of a run"):
            train(recipe(**SHORT), restart=restart)
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == before


def test_restart_removes_what_the_run_wrote_and_nothing_else(recipe: Recipe, train: Train) -> None:
    run, _ = train(recipe(train={"steps": 2}))
    wrote = {p.relative_to(run) for p in run.rglob("*")}
    mine = ("notes.md", "images/holiday.png", "best/me.txt", "state/keep/me", ".tool.cfg", ".a.0123abcd")
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    (run / "best" / "me.txt").rename(run / "me.txt")  # a model's folder with more in it cannot be written again
    run, told = train(recipe(train={"steps": 1}), restart=True)
    left = {p.relative_to(run) for p in run.rglob("*")}
    assert {Path(n) for n in mine if n != "best/me.txt"} | {Path("me.txt")} <= left
    assert Path("state/step-00000002") in wrote
    assert Path("state/step-00000002") not in left
    assert not any("going on" in event.text for event in told)


def test_a_run_from_before_there_was_a_record_is_known(recipe: Recipe, train: Train) -> None:
    run, _ = train(recipe(**SHORT))
    (run / RECORD_NAME).unlink()
    (run / "notes.md").write_text("mine")
    _, told = train(recipe(train={"steps": 2}, data={"validation": 0}))
    assert any("going on from step 1" in event.text for event in told)
    (run / RECORD_NAME).unlink()
    train(recipe(**SHORT), restart=True)
    assert (run / "notes.md").read_text() == "mine"
    assert not (run / "state" / "step-00000002").exists()


@pytest.mark.parametrize("key", ["data.path", "model.source"])
def test_an_output_that_holds_what_is_read_is_refused(recipe: Recipe, train: Train, key: str, tmp_path: Path) -> None:
    content = recipe(**SHORT)
    section, name = key.split(".")
    content["output"] = str(Path(content[section][name]).parent)
    with pytest.raises(OutputError, match=f"holds {key}"):
        train(content)
    content["output"] = content[section][name]
    with pytest.raises(OutputError, match=f"holds {key}"):
        train(content)


def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(OutputError, match="is a link"):
        train(recipe(**SHORT))
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("name", ["state", "images", "model", "tensorboard"])
def test_a_link_in_the_place_of_a_folder_is_refused(recipe: Recipe, train: Train, tmp_path: Path, name: str) -> None:
    run, _ = train(recipe(**SHORT))
    (tmp_path / "elsewhere").mkdir()
    if (run / name).exists():
        (run / name).rename(tmp_path / "aside")
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link"):
        train(recipe(**SHORT))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_files_at_known_names_replace_links_and_do_not_follow_them(
    recipe: Recipe, train: Train, tmp_path: Path
) -> None:
    run, _ = train(recipe(**SHORT))
    for name in ("metrics.jsonl", "run.json", "report.md"):
        (run / name).unlink()
        (tmp_path / f"mine-{name}").write_text("mine")
        (run / name).symlink_to(tmp_path / f"mine-{name}")
    train(recipe(train={"steps": 2}, data={"validation": 0}))
    for name in ("metrics.jsonl", "run.json", "report.md"):
        assert (tmp_path / f"mine-{name}").read_text() == "mine"


def test_a_failed_start_leaves_nothing(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    content = recipe(data={"path": str(tmp_path / "nowhere")})
    content["output"] = str(tmp_path / "a" / "b")
    with pytest.raises(Exception, match="nowhere"):
        train(content)
    assert not (tmp_path / "a").exists()


def test_a_record_that_leads_out_of_the_folder_is_not_followed(recipe: Recipe, train: Train, tmp_path: Path) -> None:
    run, _ = train(recipe(**SHORT))
    (tmp_path / "mine.txt").write_text("mine")
    os.symlink(tmp_path, run / "up")
    with (run / RECORD_NAME).open("a") as file:
        file.write(f"../mine.txt\n{tmp_path / 'mine.txt'}\nup/mine.txt\n")
    train(recipe(**SHORT), restart=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_would_be_replaced_at_the_end_is_noticed_at_the_start(recipe: Recipe, train: Train) -> None:
    run, _ = train(recipe(**SHORT))
    longer = recipe(train={"steps": 2}, data={"validation": 0})
    (run / "model" / "me.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"model/me\.txt was not written by this run: move it"):
        train(longer)
    (run / "model" / "me.txt").unlink()
    (run / RECORD_NAME).write_text((run / RECORD_NAME).read_text().replace("report.md\n", ""))
    (run / "report.md").write_text("mine")
    for restart in (False, True):
        with pytest.raises(OutputError, match=r"report\.md was not written by this run: move it"):
            train(longer, restart=restart)
    assert (run / "report.md").read_text() == "mine"


def test_restart_forgets_curves_too_and_no_state_that_it_does_not_know(recipe: Recipe, train: Train) -> None:
    run, _ = train(recipe(log={"tensorboard": True, "every": 1}, **SHORT))
    assert list((run / "tensorboard").iterdir())
    (run / "tensorboard" / "events.mine").write_text("mine")
    train(recipe(log={"tensorboard": False, "every": 1}, **SHORT), restart=True)
    assert [p.name for p in (run / "tensorboard").iterdir()] == ["events.mine"]
    record = run / RECORD_NAME
    record.write_text("".join(line for line in record.read_text().splitlines(True) if not line.startswith("state")))
    with pytest.raises(OutputError, match="holds a state of step 1 that no record lists"):
        train(recipe(**SHORT), restart=True)


def test_names_of_models_are_no_places_in_the_output(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prismify.training.engine.opening import _check_apart
    from prismify.training.recipe import recipe_from

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    content = recipe(model={"source": "timm:resnet18"}, output=".")
    _check_apart(recipe_from(content, "recipe"))
    shards = {"path": str(tmp_path / "shards" / "train-{00..10}.tar")}
    with pytest.raises(OutputError, match=r"holds data\.path"):
        _check_apart(recipe_from(recipe(data=shards, output=str(tmp_path / "shards")), "recipe"))
