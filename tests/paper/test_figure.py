"""Table 4 and Figure 1: points are made once, kept, tabled and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prismify.cli.main import app
from typer.testing import CliRunner

from prismify.paper.budgets import BUDGETS, Budget
from prismify.paper.figure import draw_figure_1, figure_1, table_4
from prismify.paper.methods import methods, table_4_methods
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


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=list(BUDGETS))
def test_every_method_is_a_recipe_of_its_own(budget: Budget) -> None:
    found = methods(budget)
    names = [(m.family, m.name) for m in found]
    assert len(set(names)) == len(names) >= 12
    recipes = [read_recipe(budget.recipe, [*m.sets, *budget.sets, "data.path=x"]) for m in found]
    assert len({str(r.model) for r in recipes}) == len(recipes)
    widths = {m.name: r.model.arguments["block_out_channels"] for m, r in zip(found, recipes, strict=True)}
    assert all(name.startswith(f"C = {channels[0]}") for name, channels in widths.items())
    assert {(m.family, m.name) for m in table_4_methods(budget)} == {
        (family, f"C = {budget.channels}") for family in ("DeepPrism", "dense")
    }


@pytest.mark.parametrize("name", ["laptop", "gpu"])
def test_every_family_trains_at_its_own_rate(name: str) -> None:
    budget = BUDGETS[name]
    own = read_recipe(budget.recipe, ["data.path=x"])
    for method in methods(budget):
        recipe = read_recipe(budget.recipe, [*method.sets, "data.path=x"])
        assert recipe.train.learning_rate == budget.rates.get(method.family, own.train.learning_rate)
        assert recipe.model.zero == own.model.zero
    assert set(budget.rates) < {m.family for m in methods(budget)}


def test_the_budget_of_the_paper_changes_nothing_of_its_recipe() -> None:
    budget = BUDGETS["paper"]
    (small,) = (m for m in table_4_methods(budget) if m.family == "DeepPrism")
    own = read_recipe(budget.recipe, ["data.path=x"])
    changed = read_recipe(budget.recipe, [*small.sets, *budget.sets, "data.path=x"])
    assert (changed.train, changed.data, changed.model.convert) == (own.train, own.data, own.model.convert)
    assert changed.model.arguments == {**own.model.arguments, "norm_num_groups": 32}  # diffusers' own
    assert budget.minutes is None


def test_points_are_made_once_and_drawn(images: Path, tmp_path: Path) -> None:
    words = ["reproduce", "figure1", "--data", str(images), "--test", str(images), "-o", str(tmp_path), "--count", "8"]
    words += ["--only", "narrow, C = 4", "--set", "data.validation=8", "--set", "train.device=cpu", "--seeds", "2"]
    ran = CliRunner().invoke(app, [*words, "--minutes", "0.02"])
    assert ran.exit_code == 0, ran.stderr
    points = sorted((tmp_path / "points").iterdir())
    assert [p.name for p in points] == ["narrow-c-4-0.json", "narrow-c-4-1.json"]
    one = json.loads(points[0].read_text())
    assert (one["parameters"], one["images"], one["setting"]["minutes"]) == (7_323, 8, 0.02)
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


def test_what_was_trained_is_measured_by_others_without_more_training(images: Path, tmp_path: Path) -> None:
    words = ["reproduce", "figure1", "--data", str(images), "--test", str(images), "-o", str(tmp_path), "--seeds", "1"]
    words += ["--only", "narrow, C = 4", "--set", "data.validation=8", "--set", "train.device=cpu", "--minutes", "0.02"]
    assert CliRunner().invoke(app, [*words, "--count", "8"]).exit_code == 0
    point = tmp_path / "points" / "narrow-c-4-0.json"
    first, weights = (
        json.loads(point.read_text()),
        tmp_path / "runs" / "narrow-c-4-0" / "model" / "diffusion_pytorch_model.safetensors",
    )
    written = weights.read_bytes()
    ran = CliRunner().invoke(app, [*words, "--count", "12"])
    assert ran.exit_code == 0, ran.stderr
    second = json.loads(point.read_text())
    assert (first["images"], second["images"]) == (8, 12)
    assert (first["steps"], written) == (second["steps"], weights.read_bytes())


def test_table_4_stands_below_the_papers(images: Path, tmp_path: Path) -> None:
    words = ["reproduce", "table4", "--data", str(images), "--test", str(images), "-o", str(tmp_path), "--count", "8"]
    words += ["--set", "data.validation=8", "--set", "train.device=cpu", "--minutes", "0.02", "--seeds", "1"]
    words += ["--set", "train.fuse=false"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.stderr
    rows = json.loads((tmp_path / "table4.json").read_text())["rows"]
    assert [(r["model"], r["where"]) for r in rows] == [
        ("dense", "paper, C = 256"), ("dense", "here, C = 64"),
        ("DeepPrism", "paper, C = 256"), ("DeepPrism", "here, C = 64"),
    ]  # fmt: skip
    assert (rows[2]["PSNR, dB"], rows[3]["parameters"]) == ("24.1 ± 2.5", "15,415")
    assert rows[3]["IS"] is None
    assert rows[3]["PSNR, dB"].count("±") == 1


def made(family: str, parameters: int, *values: float) -> list[dict[str, Any]]:
    """Points of one method over seeds."""
    common = {
        "family": family, "name": "C = 4", "parameters": parameters, "images": 5, "hardware": "CPU",
        "setting": {"minutes": 1.0, "test": "t", "budget": "laptop", "recipe": "r"}, "versions": {"torch": "2"},
        "date": "2026-01-01",
    }  # fmt: skip

    def scores(value: float) -> dict[str, Any]:
        judged = {"PSNR": value, "SSIM": value / 100, "IS (net, N=5)": value / 4}
        return {key: {"mean": mean, "deviation": 1.5} for key, mean in judged.items()}

    return [{**common, "seed": i, "steps": 10 + i, "scores": scores(v)} for i, v in enumerate(values)]


def test_means_are_over_seeds(tmp_path: Path) -> None:
    points = made("it", 10, 20.0, 22.0)
    table = figure_1(points)
    assert table.rows == (("it", "C = 4", 10, 2, 10, "21.00 ± 1.41", "0.210 ± 0.014", "5.25 ± 0.35"),)
    assert "Judged: IS (net, N=5)." in table.notes[0]
    assert draw_figure_1(points, tmp_path / "it.png")
    table = table_4(made("dense", 10, 20.0, 22.0))
    cells = dict(zip(table.columns, table.rows[1], strict=True))
    assert cells["PSNR, dB"] == "21.00 ± 1.50 (1.41)"
    assert (cells["IS"], cells["KID"], cells["parameters"]) == ("5.25 ± 1.50 (0.35)", None, "10")


def test_the_figure_says_what_is_better_than_deep_prism_at_its_size() -> None:
    points = [*made("DeepPrism", 10, 20.0), *made("narrow", 10, 20.5), *made("low rank", 9, 19.0)]
    points += made("dense", 11, 30.0)
    (said,) = figure_1(points).notes[1:]
    assert said == ("Other methods with at most the 10 parameters of DeepPrism, C = 4, better by PSNR: narrow, C = 4.")
    assert figure_1([*made("DeepPrism", 10, 20.0), *made("dense", 11, 30.0)]).notes[1:] == ()  # no other of its size


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["table4"], "table4 trains: give --data and --test, images, and -o, a folder for its points"),
        (["figure1"], "figure1 trains: give --data and --test, images, and -o, a folder for its points"),
        (
            ["figure1", "--data", "x", "--test", "x", "-o", "out", "--only", "nobody"],
            "--only 'nobody' matches no method: there are",
        ),
    ],
)
def test_what_is_missing_is_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["reproduce", *words])
    assert ran.exit_code == (2 if "trains:" in line else 1)
    assert line in ran.stderr.splitlines()[-1]
