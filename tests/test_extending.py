"""The page about extending prismify: every block on it runs, in order, in one folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prismify.cli.main import app
from typer.testing import CliRunner

from prismify.checkpoint import Trust
from prismify.layers import own
from prismify.training.finished import run_model

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python is started in, with pictures; its modules and operators are forgotten afterwards."""
    (tmp_path / "images").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(own, "_OWN", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_every_block_of_the_page_runs(here: Path) -> None:
    kinds = []
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        kinds.append(kind)
        if (named := NAME.match(text)) is not None:
            (here / named[1]).write_text(text)
        elif kind == "python":
            exec(compile(text, str(PAGE), "exec"), {"__name__": "page"})
        else:
            assert kind == "sh", kind
            for line in text.splitlines():
                prismify, *words = shlex.split(line)
                assert prismify == "prismify"
                ran = CliRunner().invoke(app, words)
                assert ran.exit_code == 0, f"{line}\n{ran.output}"
    assert PAGE.read_text(encoding="utf-8").count("```") == 2 * len(kinds)
    assert {"python", "sh"} <= set(kinds)


def test_a_recipe_names_code_that_only_a_person_trusts(here: Path) -> None:
    files_of_page(here)
    assert run("convert", "net.py:Net", "--input", "1,3,16,16", "-o", "small")[0] == 0
    code, said = run("recipes", "validate", "denoise.yaml")
    assert code == 1
    assert f"denoise.yaml names {here / 'denoise.py'}:train, which runs Python code: add --trust-code" in said
    assert run("train", "denoise.yaml")[0] == 1
    assert "denoise" not in sys.modules
    named = ["--set", "recipe=denoise.py:train"]  # what a person writes is a person's
    code, said = run("recipes", "validate", "denoise.yaml", *named)
    assert code == 0, said
    assert "noise: 0.2" in said
    code, said = run("train", "denoise.yaml", "--trust-code", "--set", "noise=loud")
    assert code == 1
    assert "noise 'loud' is not" in said
    code, said = run("train", "denoise.yaml", "--trust-code", "--set", "nois=1")
    assert code == 1
    assert "unknown field 'nois'; known are" in said


def test_a_run_of_an_own_recipe_goes_on_and_says_what_changed(here: Path) -> None:
    files_of_page(here)
    assert run("convert", "net.py:Net", "--input", "1,3,16,16", "-o", "small")[0] == 0
    assert run("train", "denoise.yaml", "--trust-code")[0] == 0
    code, said = run("train", "denoise.yaml", "--trust-code", "--set", "train.steps=3", "--set", "noise=0.5")
    assert code == 0, said
    assert "going on from step 2" in said
    assert "noise was 0.2, is 0.5" in said
    assert "data.size" not in said
    model = run_model(here / "runs" / "denoise", Trust(code=True))[0]  # no code of the recipe's is read for that
    assert type(model).__name__ == "Net"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain.py:train", "plain.py:train is no recipe: annotate its first parameter"),
        ("plain.py:nothing", "names no recipe: "),
        ("os:system", "os is a module of Python's own"),
        ("timm:train", "timm:train names no recipe of yours"),
        ("plain.py:wrong", "its annotations cannot be read: NameError"),
    ],
)
def test_what_is_no_recipe_is_said(here: Path, name: str, said: str) -> None:
    files_of_page(here)
    (here / "plain.py").write_text("def train(recipe, watch):\n    pass\n\ndef wrong(recipe: 'Missing'):\n    pass\n")
    code, told = run("train", "denoise.yaml", "--trust-code", "--set", f"recipe={name}")
    assert code == 1
    assert said in told
    assert len(told.strip().splitlines()) == 1


def files_of_page(folder: Path) -> None:
    for _, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if (named := NAME.match(text)) is not None:
            (folder / named[1]).write_text(text)


def run(*words: str) -> tuple[int, str]:
    ran = CliRunner().invoke(app, list(words))
    return ran.exit_code, ran.output


def test_a_folder_without_its_operator_says_which_and_imports_nothing(here: Path) -> None:
    files_of_page(here)
    code, said = run("convert", "net.py:Net", "--policy", "squeeze.py:policy", "--input", "1,3,16,16", "-o", "out")
    assert code == 0, said
    assert "Squeeze rank=4" in said
    fresh = (
        "import sys, prismify\ntry:\n    prismify.load('out', trust_code=True)\nexcept prismify.PrismifyError as e:\n"
    )
    fresh += "    print(e)\nassert 'squeeze' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, check=True).stdout
    assert said == (
        "out holds the operator Squeeze (squeeze.Squeeze), which nothing has registered here: import the module that "
        "does (--import FILE.py at the command line)\n"
    )
    fresh = "import squeeze, prismify\nprint(type(prismify.load('out', trust_code=True).inner[0]).__name__)"
    assert subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True).stdout == "Squeeze\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "os:system"], "os:system names no policy of yours"),
        (["--policy", "none.py:policy"], "none.py: no such file"),
        (["--policy", "squeeze.py:nothing"], "names no policy: squeeze.py has no function 'nothing'"),
        (["--policy", "squeeze.py:policy", "--topology", "circular"], "--topology belongs to prismify's own policies"),
        (["--policy", "bad.py:fails"], "enter: policy bad:fails failed: ZeroDivisionError"),
        (["--policy", "bad.py:answers"], "enter: policy bad:answers answered a bool: give a Verdict, an Operator"),
        (["--policy", "typing.py:policy"], "'typing' is another module here; give the file another name"),
        (["--import", "broken.py"], "broken.py cannot be imported: SyntaxError"),
    ],
)
def test_a_slip_at_the_command_line_is_one_line(here: Path, words: list[str], said: str) -> None:
    files_of_page(here)
    (here / "bad.py").write_text("def fails(layer):\n    return 1 / 0\n\ndef answers(layer):\n    return True\n")
    (here / "broken.py").write_text("def (:\n")
    (here / "typing.py").write_text("policy = None\n")
    sys.path.remove(str(here))  # else the test's own folder comes first
    code, told = run("scan", "net.py:Net", "--input", "1,3,16,16", *words)
    sys.path.insert(0, str(here))
    assert code == 1
    assert said in told
    assert len(told.strip().splitlines()) == 1
