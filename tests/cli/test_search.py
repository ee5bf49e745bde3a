"""`prismify search`: a plan from a trained model, another one in seconds, and what stops it in one line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from prismify.recipes import search as recipe_of_search

import prismify
from tests.cli.conftest import NET, ROOT, Ran

Run = Callable[..., Ran]
FEW = ["--set", "data.size=16", "--set", "data.validation=4", "--set", "train.max_minutes=null", "--set", "fitted=4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model's code, its weights, and images."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "net.py").write_text(NET)
    namespace: dict[str, Callable[..., torch.nn.Module]] = {}
    exec(NET, namespace)
    torch.manual_seed(0)
    torch.save(namespace["make"]().state_dict(), folder / "net.pt")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    (folder / "images").mkdir()
    for i in range(16):
        left, top = 16 * (i % 4), 16 * (i // 4)
        whole.crop((left, top, left + 16, top + 16)).save(folder / "images" / f"{i:02d}.png")
    return folder


def words(place: Path, output: Path, *more: object) -> list[object]:
    model = ["--model", f"{place / 'net.py'}:make", "--trust-code"]
    return ["search", place / "net.pt", *model, "--data", place / "images", "-o", output, *FEW, *more]


@pytest.fixture(scope="module")
def searched(place: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    folder = tmp_path_factory.mktemp("searched") / "found"
    return folder, run(*words(place, folder, "--set", "train.steps=4", "--ratio", "1.8"))


def test_a_search_has_a_page(searched: tuple[Path, Ran], run: Run, tmp_path: Path) -> None:
    folder, _ = searched
    assert run("report", folder, "--html", tmp_path / "page.html").code == 0
    for page in (folder / "report.html", tmp_path / "page.html"):
        found = re.search(r'id="document">(.*?)</script>', page.read_text(), re.DOTALL)
        assert found is not None
        told = json.loads(found[1])
        assert told["search"]["rows"] == ["2"]
        assert set(told["search"]["measures"]) == {"error", "block", "parameters", "macs", "ms"}
        assert all(value > 0 for value in told["search"]["measures"]["error"]["cells"][0])
        assert told["runs"][0]["losses"]["blocks"]


def test_a_search_ends_in_a_plan_that_converts(
    place: Path, searched: tuple[Path, Ran], run: Run, tmp_path: Path
) -> None:
    folder, ran = searched
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["block", "becomes", "parameters", "error"]
    assert "of the output's variance lost before retraining" in ran.out
    plan = folder / "plans" / "ratio-1.8.json"
    assert f"plan written to {plan}" in ran.err
    model = f"{place / 'net.pt'} --model {place / 'net.py'}:make"
    assert ran.err.splitlines()[-1] == f"next: prismify convert {model} --plan {plan} -o DIR"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [row["candidate"] for row in rows][:2] == ["kept", "27 weights"]
    assert {row["block"] for row in rows} == {"2"}
    with Image.open(folder / "sensitivity.png") as drawn:
        assert drawn.width > 300
    converted = run(
        "convert", place / "net.pt", "--model", f"{place / 'net.py'}:make", "--plan", plan, "-o", tmp_path / "m"
    )
    assert converted.code == 0, converted.err
    assert "taught block by block" in converted.out
    made = prismify.load(tmp_path / "m", trust_code=True)
    before = sum(v.numel() for v in torch.load(place / "net.pt", weights_only=True).values())
    assert sum(p.numel() for p in made.parameters()) <= before / 1.8
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert "chosen by the search" in next(row["reason"] for row in report["layers"] if row["decision"] == "replace")


def test_another_budget_needs_no_images(place: Path, searched: tuple[Path, Ran], run: Run) -> None:
    folder, _ = searched
    found = run("search", folder, "--parameters", "2K", "--json")
    assert found.code == 0, found.err
    assert found.json["expected"]["parameters"] <= 2000
    assert found.json["chosen"][0]["block"] == "2"
    assert Path(found.json["plan"]).name == "parameters-2K.json"
    assert Path(found.json["plan"]).with_suffix(".safetensors").is_file()
    bounded = run("search", folder, "--max-error", "10", "--json")
    assert bounded.json["expected"]["parameters"] == 448 + 435 + 28  # input, output, and 27 + 1 between them
    shown = run("search", folder)
    assert "1 blocks, " in shown.out
    assert "for a plan give a budget: --parameters" in shown.err
    again = run(*words(place, folder, "--set", "train.steps=4", "--macs", "1.2M", "--plan-out", folder / "own.json"))
    assert again.code == 0
    assert "step" not in again.err  # nothing is searched anew
    assert (folder / "own.json").is_file()


@pytest.fixture(scope="module")
def of_widths(place: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    folder = tmp_path_factory.mktemp("widths") / "found"
    return folder, run(*words(place, folder, "--widths", "--ratio", "3"))


def test_a_search_of_widths_ends_in_a_plan_that_converts_and_trains(
    place: Path, of_widths: tuple[Path, Ran], run: Run, tmp_path: Path
) -> None:
    folder, ran = of_widths
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["channels", "made", "by", "channels", "error"]
    plan = folder / "plans" / "ratio-3.json"
    model = f"{place / 'net.pt'} --model {place / 'net.py'}:make"
    assert ran.err.splitlines()[-1] == f"next: prismify convert {model} --plan {plan} -o DIR"
    assert {row["width"] for row in csv.DictReader((folder / "table.csv").read_text().splitlines())} == {"0", "2"}
    with Image.open(folder / "sensitivity.png") as drawn:
        assert drawn.width > 300
    words = ["--model", f"{place / 'net.py'}:make", "--trust-code", "--plan", plan, "-o", tmp_path / "m"]
    converted = run("convert", place / "net.pt", *words)
    assert converted.code == 0, converted.err
    made = prismify.load(tmp_path / "m", trust_code=True)
    before = sum(v.numel() for v in torch.load(place / "net.pt", weights_only=True).values())
    assert 0.5 * before / 3 < sum(p.numel() for p in made.parameters()) <= before / 3
    assert "fitted: 64" in (tmp_path / "m" / "recipe.yaml").read_text()


def test_a_search_of_widths_has_a_page(of_widths: tuple[Path, Ran]) -> None:
    found = re.search(r'id="document">(.*?)</script>', (of_widths[0] / "report.html").read_text(), re.DOTALL)
    assert found is not None
    told = json.loads(found[1])
    assert told["search"]["columns"][-1] == "1"
    assert [row[-1] for row in told["search"]["measures"]["error"]["cells"]] == [0, 0]
    assert told["report"]["notes"][-1].startswith("After is the searched model with as few channels as can be")
    assert told["runs"] == []


def test_another_budget_of_widths_takes_no_images(of_widths: tuple[Path, Ran], place: Path, run: Run) -> None:
    folder, _ = of_widths
    found = run("search", folder, "--macs", "400K", "--json")
    assert found.code == 0, found.err
    assert found.json["expected"]["macs"] <= 400_000
    assert {row["width"] for row in found.json["chosen"]} == {"0", "2"}
    shown = run("search", folder)
    assert "2 widths, seen on 4 images" in shown.out
    assert "--ms" not in shown.err
    assert "--max-drop" not in shown.err
    assert run("search", folder, "--ms", "3").line.startswith("no milliseconds are known of widths")
    assert run("search", folder, "--parameters", "10").line == "no widths have at most 10 parameters: the least is 68"
    other = run(*words(place, folder, "--ratio", "2"))
    assert other.line == f"{folder} holds a search of widths: name another output, or add --restart"
    early = run(*words(place, folder.parent / "early", "--widths", "--ms", "3"))
    assert early.line.startswith("no milliseconds are known of widths")
    assert not (folder.parent / "early").exists()
    again = run(*words(place, folder, "--set", "widths=true", "--ratio", "3"))
    assert again.code == 0, again.err


def test_one_kind_of_search_takes_the_place_of_the_other(
    place: Path, searched: tuple[Path, Ran], run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    shutil.copytree(searched[0], folder)
    assert run("search", folder, "--widths", "--ratio", 2).line == f"{folder} holds no search of widths"
    kept = run(*words(place, folder, "--widths"))
    assert kept.line == f"{folder} holds a search of blocks: name another output, or add --restart"
    (folder / "scores.json").rename(tmp_path / "scores.json")
    unfinished = run(*words(place, folder, "--widths"))
    assert "holds a search of blocks that is not finished" in unfinished.err.splitlines()[-1]
    (tmp_path / "scores.json").rename(folder / "scores.json")
    ran = run(*words(place, folder, "--widths", "--restart", "--ratio", 1.8))
    assert ran.code == 0, ran.err
    assert (folder / "widths.json").is_file()
    assert not {"scores.json", "library.safetensors", "state"} & {path.name for path in folder.iterdir()}
    plan = folder / "plans" / "ratio-1.8.json"
    assert not plan.with_suffix(".safetensors").exists()
    back = run(*words(place, folder, "--set", "train.steps=2", "--restart", "--ratio", 1.8))
    assert back.code == 0, back.err
    assert not (folder / "widths.json").exists()


def test_a_search_that_is_stopped_while_it_scores_goes_on_there(
    place: Path, searched: tuple[Path, Ran], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "found"
    command = words(place, folder, "--set", "train.steps=4", "--ratio", 1.8)
    whole, asked = recipe_of_search.score, list[int]()

    def stopped(*args: Any, **kwargs: Any) -> Any:
        def interrupt(done: int, of: int) -> None:
            if done > of // 2:
                raise KeyboardInterrupt

        return whole(*args[:6], interrupt, **kwargs)

    monkeypatch.setattr(recipe_of_search, "score", stopped)
    first = run(*command)
    assert first.code != 0
    assert first.err.count("the same command goes on from") == 1
    known = json.loads((folder / "scoring.json").read_text())["errors"]

    def noted(*args: Any, known: dict[str, float], **kwargs: Any) -> Any:
        asked.append(len(known))
        return whole(*args, known=known, **kwargs)

    monkeypatch.setattr(recipe_of_search, "score", noted)
    assert run(*command).code == 0
    assert asked == [len(known)]
    assert len(known) > 2
    assert not (folder / "scoring.json").exists()
    errors = [json.loads((one / "scores.json").read_text())["scores"]["error"] for one in (folder, searched[0])]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_a_folder_answers_for_the_model_it_was_made_of(
    place: Path, searched: tuple[Path, Ran], of_widths: tuple[Path, Ran], run: Run, tmp_path: Path
) -> None:
    shutil.copy(place / "net.pt", tmp_path / "other.pt")
    for (folder, _), more in ((searched, []), (of_widths, ["--widths"])):
        words_ = ["search", tmp_path / "other.pt", "--model", f"{place / 'net.py'}:make", "--trust-code"]
        ran = run(*words_, "--data", place / "images", "-o", folder, *FEW, *more, "--ratio", 2)
        assert ran.line.startswith(f"{folder} holds a search of {place / 'net.pt'} --model")
        assert ran.line.endswith("name another output, or add --restart")


def test_a_folder_answers_for_the_images_and_settings_it_was_made_with(
    place: Path, searched: tuple[Path, Ran], of_widths: tuple[Path, Ran], run: Run
) -> None:
    (folder, _), (narrow, _) = searched, of_widths
    other = run(*words(place, folder, "--set", "train.steps=5", "--ratio", 2))
    assert other.line == (
        f"{folder} holds a search with train.steps=4, not 5: name another output, or add --restart; another budget of "
        f"the same search needs no --data (prismify search {folder} --ratio 8)"
    )
    moved = run(*words(place, narrow, "--widths", "--set", f"data.path={place}", "--ratio", 2))
    assert f"holds a search with data.path={place / 'images'}, not {place}:" in moved.line


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--max-error", "nan"], "--max-error nan: give a number above 0"),
        (["--max-error", "-1"], "--max-error -1: give a number above 0"),
        (["--ratio", "2", "--restart"], "--restart searches anew: give the model, --data and -o"),
    ],
)
def test_what_makes_no_sense_is_one_line(more: list[str], line: str, of_widths: tuple[Path, Ran], run: Run) -> None:
    ran = run("search", of_widths[0], *more)
    assert ran.code == (2 if "--restart" in more else 1)
    assert ran.line.removesuffix("; see prismify search --help") == line


def test_a_plan_takes_the_place_of_nothing_else(
    place: Path, of_widths: tuple[Path, Ran], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("x = 1")
    ran = run("search", of_widths[0], "--ratio", 2, "--plan-out", tmp_path / "mine.py")
    assert ran.line.endswith("mine.py exists and is no plan: choose another name")
    assert (tmp_path / "mine.py").read_text() == "x = 1"
    missing = run("search", place / "net.pt", "--widths", "--ratio", 3, "-o", tmp_path / "new")
    assert missing.line.startswith("a search needs --data")


def test_a_plan_that_cannot_be_written_is_told_before_the_search(place: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run(*words(place, tmp_path / "found", "--ratio", 2, "--plan-out", tmp_path / "file" / "plan.json"))
    assert "cannot be written" in ran.line
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--parameters", "100"], "no choice of candidates has at most 100 parameters: the least is 911"),
        (["--parameters", "few"], "--parameters few: give a number such as 250K or 1.2M"),
        (["--max-drop", "0.5K"], "--max-drop 0.5K: give a number such as 0.5dB"),
        (["--max-drop", "0.5dB"], "Sequential gives no images back, so that no dB are known: bound --max-error"),
        (["--ratio", "1"], "with ratio 1 every block stays as it is: there is nothing to convert"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_one_line(
    given: list[str], line: str, searched: tuple[Path, Ran], run: Run
) -> None:
    ran = run("search", searched[0], *given)
    assert ran.code == 1
    assert ran.line == line


def test_what_cannot_be_searched_is_one_line(place: Path, searched: tuple[Path, Ran], run: Run, tmp_path: Path) -> None:
    ran = run("search", place / "net.pt")
    assert ran.code == 2
    needs = "a search needs --data, images to learn on, and -o, a folder for what it finds"
    assert ran.line == f"{needs}; see prismify search --help"
    assert run("search", tmp_path, "--ratio", 2).line == f"{tmp_path} holds no search: give a model, --data and -o"
    few = run(*words(place, tmp_path / "few", "--set", "data.validation=16"))
    assert few.code == 1
    assert "16" in few.line
    none = run(*words(place, tmp_path / "none", "--set", "data.validation=0"))
    assert none.line.endswith("data: validation images are what candidates are scored on: hold out at least 1")
    nothing = run(*words(place, tmp_path / "wide", "--arg", "width=4"))
    assert nothing.code == 1
    assert not (tmp_path / "wide").exists()
    folder = tmp_path / "other"
    shutil.copytree(searched[0], folder)
    (folder / "scores.json").unlink()
    assert run("search", folder, "--ratio", 2).line.endswith(
        "is not finished: give the same command again, with --data"
    )
    other = run(
        *words(
            place,
            folder,
            "--set",
            "train.steps=6",
            "--set",
            "candidates.low rank 3={name: volumes, operator: LowRank, options: {rank: 3}}",
        )
    )
    assert "a search among other candidates" in other.err.splitlines()[-1]


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_as_if_nothing_had_happened(place: Path, tmp_path: Path) -> None:
    start = f"import prismify; prismify.__path__.append({str(ROOT)!r}); from prismify.cli.main import app; app()"
    more = ["--set", "train.steps=30", "--set", "checkpoint.every=3", "--set", "log.every=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", start, *map(str, words(place, killed, *more))]
    straight = [sys.executable, "-c", start, *map(str, words(place, whole, *more))]
    assert subprocess.run(straight, env=environment, capture_output=True).returncode == 0
    for reached in (2, 11, 20):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal, deadline = killed / "metrics.jsonl", time.monotonic() + 120
        while not journal.is_file() or journal.read_text().count('"train"') < reached:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    first, second = (json.loads((f / "scores.json").read_text())["scores"] for f in (whole, killed))
    assert first["error"] == second["error"]
    assert first["block_error"] == second["block_error"]
