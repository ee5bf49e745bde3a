"""`evaluate` and `reconstruct` see images as the run did that made the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from PIL import Image

import prismify
from prismify.training.data import Stream, open_data
from prismify.training.measure import psnr
from prismify.training.models import reconstruct
from prismify.training.schema import Data

ROOT = Path(__file__).parents[2]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    for i in range(6):
        whole.crop((20 * i, 9 * i, 20 * i + 32, 9 * i + 24)).save(folder / f"{i}.png")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pictures: Path, run: Run) -> Path:
    """Runs of one model: `unit` on [0, 1], `wide` on [-1, 1], `stopped` before its end, `small` on 8 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, sample_size=16, latent_channels=2)
    prismify.save(prismify.convert(vae.eval()), folder / "vae")
    wanted = {"unit": ([0, 1], 16), "wide": ([-1, 1], 16), "small": ([0, 1], 8)}
    for name, (scale, size) in wanted.items():
        recipe = written(folder / name, folder / "vae", pictures, range=scale, size=size)
        assert run("train", recipe).code == 0
    shutil.copytree(folder / "unit", folder / "stopped")
    for name in ("model", "best"):
        shutil.rmtree(folder / "stopped" / name)
    return folder


def written(folder: Path, model: object, pictures: Path, **data: Any) -> Path:
    """A recipe of two steps, beside the folder that it names."""
    content = {
        "recipe": "autoencoder",
        "model": str(model),
        "data": {"path": str(pictures), "validation": 2, **data},
        "train": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "device": "cpu"},
        "loss": {"perceptual": 0.0, "adversarial": 0.0},
        "log": {"tensorboard": False},
        "output": str(folder),
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def measured(run: Run, *words: object) -> dict[str, float]:
    ran = run("evaluate", *words, "--json")
    assert ran.code == 0, ran.err
    return {name: row["PSNR"]["mean"] for name, row in ran.json["models"].items()}


def expected(folder: Path, pictures: Path, scale: tuple[float, float]) -> float:
    model, data = prismify.load(folder), Data(path=str(pictures), size=16, range=scale, validation=0)
    stream: Stream = open_data(data, 0)[0]
    return float(torch.cat([psnr(reconstruct(model, b), b, scale) for b in stream.in_order(64)]).mean())


def test_a_run_is_measured_as_it_was_trained(runs: Path, pictures: Path, run: Run) -> None:
    unit, wide = runs / "unit", runs / "wide"
    right = {
        str(unit): expected(unit / "best", pictures, (0, 1)),
        str(wide): expected(wide / "best", pictures, (-1, 1)),
    }
    for names in ([unit], [wide], [unit, wide], [wide, unit]):
        found = measured(run, *names, "--data", pictures)
        assert found == pytest.approx({str(n): right[str(n)] for n in names}, abs=1e-3)
    assert measured(run, unit / "best", "--data", pictures).popitem()[1] == pytest.approx(right[str(unit)], abs=1e-3)
    otherwise = measured(run, unit, "--data", pictures, "--range=-1,1")
    assert abs(otherwise[str(unit)] - right[str(unit)]) > 0.1  # what a person says goes first
    said = run("evaluate", unit, "--data", pictures).out
    assert "6 images" in said
    assert "cut to 16x16" in said
    assert "black 0, white 1" in said
    assert "Passed over: 1 .txt" in said


def test_runs_that_saw_images_otherwise_ask_for_a_setting(runs: Path, pictures: Path, run: Run) -> None:
    pair = (runs / "unit", runs / "small", "--data", pictures)
    assert "was trained with data.size=16, " in run("evaluate", *pair).line
    assert "with 8: give --set data.size=..., or measure them apart" in run("evaluate", *pair).line
    for way in (("--size", 16), ("--set", "data.size=16")):
        assert len(measured(run, *pair, *way)) == 2
    assert "here only how images are read is set" in run("evaluate", *pair[1:], "--set", "train.steps=1").line
    assert "data: unknown field 'sise'" in run("evaluate", *pair[1:], "--set", "data.sise=1").line


def test_an_interrupted_run_is_measured_and_looked_at(runs: Path, pictures: Path, run: Run, tmp_path: Path) -> None:
    ran = run("evaluate", runs / "stopped", "--data", pictures, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["weights"] == {str(runs / "stopped"): "the state of step 2"}
    whole = measured(run, runs / "unit" / "model", "--data", pictures)
    assert ran.json["models"][str(runs / "stopped")]["PSNR"]["mean"] == pytest.approx(whole.popitem()[1], abs=1e-6)
    seen = run("reconstruct", runs / "stopped", pictures / "3.png", "-o", tmp_path / "out")
    assert seen.code == 0, seen.err
    assert "mean of 1 by the state of step 2" in seen.out
    with Image.open(tmp_path / "out" / "3.png") as page:
        assert page.size == (2 * 18 + 2, 18 + 2)
    shutil.copytree(runs / "stopped", tmp_path / "young")
    shutil.rmtree(tmp_path / "young" / "state")
    none = run("evaluate", tmp_path / "young", "--data", pictures)
    assert "is a run that has no model yet: it was stopped before it wrote its first state" in none.line


def test_an_unconverted_model_of_ones_own_is_measured_from_its_run(tmp_path: Path, pictures: Path, run: Run) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.encoder, self.decoder = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1)\n"
        "    def encode(self, x): return self.encoder(x)\n    def decode(self, z): return self.decoder(z)\n"
    )
    recipe = written(tmp_path / "run", f"{tmp_path}/own.py:Net", pictures, size=16)
    assert run("train", recipe, "--trust-code").code == 0
    assert "--trust-code" in run("evaluate", tmp_path / "run", "--data", pictures).line
    found = measured(run, tmp_path / "run", "--data", pictures, "--trust-code")
    assert found[str(tmp_path / "run")] > 0


def test_validation_that_takes_all_images_names_the_setting(pictures: Path, run: Run) -> None:
    ran = run("train", "demo", "--set", f"data.path={pictures}", "--set", "data.validation=6")
    assert "holds 6 images, and data.validation=6 of them are held out" in ran.line
    assert "set data.validation to at most 5" in ran.line


def test_what_is_no_number_is_null_in_json(tmp_path: Path, pictures: Path, run: Run) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def encode(self, x): return x\n"
        "    def decode(self, z): return z * float('nan')\n"
        "class Same(Net):\n    def decode(self, z): return z\n"
    )
    net = f"{tmp_path}/own.py:Net"
    ran = run("evaluate", net, "--data", pictures, "--json", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    for text in (ran.out, (tmp_path / "out" / "evaluation.json").read_text()):
        assert "NaN" not in text
        assert json.loads(text)["models"][net]["PSNR"] == {"mean": None, "deviation": None, "over": "images"}


def test_images_too_small_are_one_line(tmp_path: Path, pictures: Path, run: Run) -> None:
    small = run("evaluate", "cifar10-ae-64", "--data", pictures, "--size", 2)
    assert "cifar10-ae-64 takes no images of (3, 2, 2) (" in small.line
    assert small.line.endswith("): choose another --size")
    odd = run("evaluate", "cifar10-ae-64", "--data", pictures, "--size", 9)
    assert "choose another --size" in odd.line
    below = run("evaluate", "cifar10-ae-64", "--data", pictures, "--size", 8, "--json").json
    assert below["missing"]["SSIM"] == "images are smaller than its window of 11 pixels"
    assert set(below["models"]["cifar10-ae-64"]) == {"PSNR"}


@pytest.mark.parametrize(
    ("size", "message"), [(2, "takes no images of 2x2 ("), (9, "of images of (3, 9, 9): set data")]
)
def test_training_on_images_of_a_wrong_size_names_the_setting(
    tmp_path: Path, pictures: Path, run: Run, size: int, message: str
) -> None:
    recipe = written(tmp_path / "run", "cifar10-ae-64", pictures, size=size)
    ran = run("train", recipe)
    assert message in ran.line
    assert "set data.size" in ran.line
