"""`prismify train`, `recipes`, `evaluate` and `reconstruct` as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
Run = Callable[..., Any]
SHORT = [
    "--set", "train.steps=3", "--set", "train.batch_size=4", "--set", "train.device=cpu", "--set", "log.every=1",
    "--set", "data.validation=4", "--set", "loss.adversarial=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen crops of a real picture."""
    folder = tmp_path_factory.mktemp("pictures")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    for i in range(12):
        whole.crop((10 * i, 5 * i, 10 * i + 16, 5 * i + 16)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path, run: Run) -> tuple[Path, Any]:
    """convert writes a recipe, and train carries it out as it is."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, sample_size=16, latent_channels=2)
    vae.save_pretrained(folder / "vae")
    assert run("convert", folder / "vae", "-o", folder / "small").code == 0
    return folder, run("train", folder / "small" / "recipe.yaml", "--set", f"data.path={pictures}", *SHORT)


def test_the_recipe_that_convert_writes_runs_as_it_is(trained: tuple[Path, Any]) -> None:
    folder, ran = trained
    assert ran.code == 0, ran.err
    assert "learning rate 0.006 = 0.0015 x 4" in ran.err
    assert "step 3: reconstruction" in ran.err
    assert ran.out == ""
    assert (folder / "small" / "runs" / "autoencoder" / "report.md").is_file()


def test_the_distillation_recipe_runs_as_it_is(tmp_path: Path, pictures: Path, run: Run) -> None:
    from torch import nn

    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 5, 3))
    torch.save(nn.Sequential(*layers), tmp_path / "net.pt")
    assert run("convert", tmp_path / "net.pt", "--input", "1,3,16,16", "-o", tmp_path / "small").code == 0
    recipe = yaml.safe_load((tmp_path / "small" / "recipe.yaml").read_text())
    assert recipe["recipe"] == "distillation"
    short = SHORT[:-2]  # all but the adversarial term's
    ran = run("train", tmp_path / "small" / "recipe.yaml", "--set", f"data.path={pictures}", *short)
    assert ran.code == 0, ran.err


def test_a_converted_denoiser_trains_and_is_sampled(tmp_path: Path, run: Run, pictures: Path) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        block_out_channels=(16,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1,
        norm_num_groups=4, sample_size=8, add_attention=False,
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "unet")
    assert run("convert", tmp_path / "unet", "-o", tmp_path / "small").code == 0
    recipe, short = tmp_path / "small" / "recipe.yaml", [*SHORT[:-2], "--set", "sampling.steps=2"]
    ran = run("train", recipe, "--set", f"data.path={pictures}", "--set", f"output={tmp_path / 'run'}", *short)
    assert ran.code == 0, ran.err
    assert f"next: prismify sample {tmp_path / 'run'} -o samples" in ran.err
    ran = run("sample", tmp_path / "run", "-n", "3", "--steps", "2", "-o", tmp_path / "made")
    assert ran.code == 0, ran.err
    assert "3 pictures of 8x8 by best, 2 steps of ddim" in ran.out
    assert {p.name for p in (tmp_path / "made").iterdir()} == {"0000.png", "0001.png", "0002.png", "grid.png",
                                                               "samples.json"}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such file, and no recipe that prismify ships"),
        (["demo"], "data.path is not set: name a folder, a tar or an npz of images"),
        (["demo", "--set", "data.path=nowhere"], "nowhere: no such file or folder"),
        (["demo", "--set", "data.path=empty"], "empty holds no images"),
        (["demo", "--set", "train.batchsize=3"], "train: unknown field 'batchsize'; known are accumulation"),
        (["demo", "--set", "data.path=empty", "--set", "output=a_file"], "a_file is not a folder"),
        (["demo", "--set", "train.clip=0"], "demo: train: clip 0 must be a positive number; null leaves gradients"),
        (["demo", "--set", "train.learning_rate=.nan"], "train: learning_rate nan must be a positive number"),
        (["demo", "--set", "train.mixed_precision=maybe"], "mixed_precision 'maybe' is not one of no, bf16, fp16"),
        (["latin1.yaml"], "latin1.yaml is no recipe: its byte 5 is not UTF-8; save it as UTF-8"),
        (["utf16.yaml"], "utf16.yaml is no recipe: it is UTF-16; save it as UTF-8"),
        (["bomb.yaml"], "bomb.yaml: line 6: it holds more than 50,000 values, with those that aliases stand for"),
        (["twice.yaml"], "twice.yaml: line 2: 'recipe' is given twice, first in line 1"),
        (["empty"], "empty is a folder: name the recipe in it, such as empty/recipe.yaml"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").touch()
    (tmp_path / "latin1.yaml").write_bytes("# caf\u00e9\nrecipe: autoencoder\n".encode("latin-1"))
    (tmp_path / "utf16.yaml").write_bytes("recipe: autoencoder\n".encode("utf-16"))
    (tmp_path / "twice.yaml").write_text("recipe: autoencoder\nrecipe: distillation\n")
    rows = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
    (tmp_path / "bomb.yaml").write_text("a0: &a0 x\n" + "".join(rows))
    ran = run("train", *words)
    assert ran.code == 1
    assert message in ran.line


def test_recipes_are_listed_copied_and_checked(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [line.split()[0] for line in run("recipes", "ls").out.splitlines()]
    assert {"demo", "cifar10-paper", "cifar10-fast", "imagenet256"} <= set(names)
    assert run("recipes", "cp", "demo", "mine.yaml").err == "next: prismify train mine.yaml --set data.path=IMAGES\n"
    assert run("recipes", "cp", "demo").err == "next: prismify train demo.yaml --set data.path=IMAGES\n"
    assert run("recipes", "cp", "demo", "mine.yaml").line == "mine.yaml exists; name another file"
    assert "ships no recipe 'x'; it has" in run("recipes", "cp", "x", "y.yaml").line
    words = ["--set", "train.steps=7", "--set", "train.mixed_precision=no"]
    full = yaml.safe_load(run("recipes", "validate", "mine.yaml", *words).out)
    assert full["train"]["mixed_precision"] == "no"
    assert full["train"]["steps"] == 7
    assert full["train"]["betas"] == [0.9, 0.999]
    assert "known are" in run("recipes", "validate", "mine.yaml", "--set", "trian.steps=7").line


def test_models_are_evaluated_side_by_side(trained: tuple[Path, Any], pictures: Path, run: Run) -> None:
    folder, _ = trained
    runs = folder / "small" / "runs" / "autoencoder"
    ran = run("evaluate", folder / "vae", runs, "--data", pictures, "-o", folder / "out", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["models"]) == {str(folder / "vae"), str(runs)}
    assert set(ran.json["missing"]) == {"LPIPS", "IS", "KID", "FD"}
    assert json.loads((folder / "out" / "evaluation.json").read_text()) == ran.json
    with Image.open(folder / "out" / "pictures.png") as page:
        assert page.size == (8 * 18 + 2, 3 * 18 + 2)
    table = run("evaluate", folder / "vae", runs, "--data", pictures)
    assert "Not measured: LPIPS (no weights: give --lpips FILE); IS, KID, FD (no feature network" in table.out
    assert "PSNR" in table.out


def test_reconstructions_stand_beside_their_originals(trained: tuple[Path, Any], pictures: Path, run: Run) -> None:
    folder, _ = trained
    ran = run("reconstruct", folder / "vae", pictures, "-o", folder / "pairs", "--count", 3)
    assert ran.code == 0, ran.err
    assert len(list((folder / "pairs").iterdir())) == 3
    assert ran.out.splitlines()[-1].endswith(f"mean of 3; originals on the left, in {folder / 'pairs'}")
    one = run("reconstruct", folder / "vae", pictures / "5.png", "-o", folder / "one")
    assert one.code == 0, one.err
    assert [p.name for p in (folder / "one").iterdir()] == ["5.png"]
    (folder / "mine").mkdir()
    for name in ("pictures.png", "evaluation.json"):
        (folder / "mine" / name).write_text("mine")
        said = run("evaluate", folder / "vae", "--data", pictures, "-o", folder / "mine").line
        assert f"{name} exists and was not written by prismify" in said
        (folder / "mine" / name).unlink()
    wrong = run("reconstruct", "torchvision:resnet18", pictures, "-o", folder / "none")
    assert "holds a ResNet, which has no encode and decode" in wrong.line
    assert "is neither a folder" in run("evaluate", folder / "vae", "--data", __file__).line
