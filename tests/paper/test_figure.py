"""Figure 1: points are made once, kept, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from prismify.cli.main import app
from typer.testing import CliRunner

from prismify.paper.figure import figure_1
from prismify.paper.methods import METHODS
from prismify.paper.points import RECIPE
from prismify.training.recipe import read_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 crops of a picture, 32x32."""
    folder = tmp_path_factory.mktemp("images")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    columns = whole.width // 32
    for i in range(48):
        left, top = 32 * (i % columns), 32 * (i // columns)
        whole.crop((left, top, left + 32, top + 32)).save(folder / f"{i:02d}.png")
    return folder


def test_every_method_is_a_recipe_of_its_own() -> None:
    names = [(m.family, m.name) for m in METHODS]
    assert len(set(names)) == len(names) >= 12
    recipes = [read_recipe(RECIPE, [*m.sets, "data.path=x"]) for m in METHODS]
    assert len({str(r.model) for r in recipes}) == len(recipes)


def test_points_are_made_once_and_drawn(images: Path, tmp_path: Path) -> None:
    words = ["reproduce", "figure1", "--data", str(images), "--test", str(images), "-o", str(tmp_path), "--count", "8"]
    words += ["--only", "narrow, C = 4", "--set", "data.validation=8", "--set", "train.device=cpu"]
    ran = CliRunner().invoke(app, [*words, "--minutes", "0.02"])
    assert ran.exit_code == 0, ran.stderr
    points = sorted((tmp_path / "points").iterdir())
    assert [p.name for p in points] == ["narrow-c-4-0.json", "narrow-c-4-1.json"]
    one = json.loads(points[0].read_text())
    assert (one["parameters"], one["images"], one["budget"]["minutes"]) == (7_323, 8, 0.02)
    assert one["steps"] > 0
    assert {"date", "hardware", "versions", "changes"} <= one.keys()
    assert (tmp_path / "runs" / "narrow-c-4-1" / "model").is_dir()
    text = (tmp_path / "figure1.md").read_text()
    assert "| narrow | C = 4 | 7,323 | 2 |" in text
    with Image.open(tmp_path / "figure1.png") as drawn:
        assert drawn.width > 300
    before = [p.stat().st_mtime_ns for p in points]
    again = CliRunner().invoke(app, [*words, "--minutes", "0.02"])
    assert again.exit_code == 0
    assert "step" not in again.stderr.replace("steps", "")
    assert [p.stat().st_mtime_ns for p in points] == before
    for more, named in (
        [["--minutes", "0.03"], "minutes"],
        [["--minutes", "0.02", "--set", "train.batch_size=4"], "sets"],
    ):
        other = CliRunner().invoke(app, [*words, *more])
        assert other.exit_code == 1
        assert other.stderr.splitlines()[-1].endswith(f"was made with another {named}: name another output")


def test_means_are_over_seeds() -> None:
    common = {
        "family": "it", "name": "C = 4", "parameters": 10, "budget": {"minutes": 1.0, "test": "t"}, "images": 5,
        "hardware": "CPU", "versions": {"torch": "2"},
    }  # fmt: skip
    scores = [{"PSNR": {"mean": v}, "SSIM": {"mean": v / 100}} for v in (20.0, 22.0)]
    points = [{**common, "seed": i, "steps": 10 + i, "scores": s} for i, s in enumerate(scores)]
    table = figure_1(points)
    assert table.rows == (("it", "C = 4", 10, 2, 10, "21.00 ± 1.41", "0.210 ± 0.014"),)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "figure1 trains: give --data and --test, images, and -o, a folder for its points"),
        (
            ["--data", "x", "--test", "x", "-o", "out", "--only", "nobody"],
            "--only 'nobody' matches no method: there are",
        ),
    ],
)
def test_what_is_missing_is_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["reproduce", "figure1", *words])
    assert ran.exit_code == 1
    assert line in ran.stderr.splitlines()[-1]
