"""`prismify report DIR --html FILE`: the page of a folder, with what the folder knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import NET, Ran

Run = Callable[..., Ran]


def document(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A converted folder with what a run in it left."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "net.py").write_text(NET)
    assert (
        run("convert", f"{folder / 'net.py'}:make", "--trust-code", "--input", "1,3,16,16", "-o", folder / "small").code
        == 0
    )
    trained = folder / "small" / "runs" / "first"
    (trained / "images").mkdir(parents=True)
    facts = {
        "model": {"class": "Net", "parameters": 5},
        "data": {"images": 4, "path": "images"},
        "steps": 2,
        "hardware": "CPU",
        "processes": 1,
        "learning_rate": 0.1,
        "seed": 0,
        "versions": {},
        "command": ["train"],
    }
    (trained / "run.json").write_text(json.dumps(facts))
    rows = [{"step": n, "kind": "train", "output": 1 / n, "seconds": n} for n in (1, 2)]
    rows += [{"step": 2, "kind": "validation", "psnr": None}]
    (trained / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "ki')
    Image.new("RGB", (4, 4)).save(trained / "images" / "step-00000002.png")
    (trained / "images" / "step-00000001.png").write_text("no picture")
    return folder / "small"


def test_a_converted_folder_has_a_page_and_shows_its_runs_when_asked(converted: Path, run: Run, tmp_path: Path) -> None:
    assert document(converted / "report.html")["runs"] == []
    ran = run("report", converted, "--html", tmp_path / "page.html")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith(f"page written to {tmp_path / 'page.html'}\nnext: prismify train ")
    found = document(tmp_path / "page.html")
    assert found["report"]["parameters"] == json.loads((converted / "report.json").read_text())["parameters"]
    (trained,) = found["runs"]
    assert trained["losses"] == {"output": [[1, 1.0], [2, 0.5]]}
    assert trained["measured"] == {"psnr": [[2, None]]}
    assert [picture["step"] for picture in trained["pictures"]] == [2]


def test_a_model_that_comes_along_has_one(run: Run, tmp_path: Path) -> None:
    assert run("report", "cifar10-ae-64", "--html", tmp_path / "page.html").code == 0
    assert document(tmp_path / "page.html")["report"]["model"] == "AutoencoderKL"


def test_it_replaces_pages_and_nothing_else(converted: Path, run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert run("report", converted, "--html", page).line == (
        f"{page} exists and is no page of prismify's; choose another name, or add --force"
    )
    assert page.read_text() == "mine"
    assert run("report", converted, "--html", page, "--force").code == 0
    assert run("report", converted, "--html", page).code == 0
    assert run("report", converted, "--html", tmp_path / "none" / "page.html").line.endswith("none is not a folder")


def test_a_damaged_run_is_one_line(converted: Path, run: Run, tmp_path: Path) -> None:
    facts = converted / "runs" / "first" / "run.json"
    whole = facts.read_text()
    facts.write_text('{"model": {}}')
    line = run("report", converted, "--html", tmp_path / "page.html").line
    facts.write_text(whole)
    assert line == f"{facts} is damaged: KeyError 'class'"
    assert not (tmp_path / "page.html").exists()
