"""`judge`: samples from folders and from denoisers, against images and against one image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from prismify.metrics.classifiers import CifarResNet, LeNet
from prismify.training.losses import LPIPS

ROOT = Path(__file__).parents[2]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """`data`, 40 crops of a real picture; `run`, a denoiser trained on them for 2 steps; `made`, 24 of its pictures;
    `lenet.pt`, `resnet.pt` and `lpips.safetensors`, networks without training."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    (folder / "data").mkdir()
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    for i in range(40):
        whole.crop((4 * i, 3 * i, 4 * i + 24, 3 * i + 16)).save(folder / "data" / f"{i:02d}.png")
    unet = diffusers.UNet2DModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1,
        norm_num_groups=4, sample_size=8, add_attention=False,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    recipe = {
        "recipe": "diffusion",
        "model": str(folder / "unet"),
        "data": {"path": str(folder / "data"), "validation": 2, "size": 8},
        "noise": {"timesteps": 20},
        "train": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "device": "cpu"},
        "sampling": {"steps": 2},
        "log": {"tensorboard": False},
        "output": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = run("train", folder / "recipe.yaml")
    assert trained.code == 0, trained.err
    assert run("sample", folder / "run", "-n", 24, "--steps", 2, "--seed", 5, "-o", folder / "made").code == 0
    torch.save(LeNet().state_dict(), folder / "lenet.pt")
    torch.save(CifarResNet(1).state_dict(), folder / "resnet.pt")
    lpips = LPIPS("alex")
    weights = {name: value for name, value in lpips.state_dict().items() if name.startswith("features.")}
    save_file({**weights, **{f"lin{i}.weight": head.data + 0.1 for i, head in enumerate(lpips.heads)}},
              folder / "lpips.safetensors")  # fmt: skip
    return folder


def test_a_denoiser_and_its_pictures_are_measured_alike(place: Path, run: Run, tmp_path: Path) -> None:
    words = (place / "made", place / "run", "--data", place / "data", "--features", place / "resnet.pt", "--steps", 2,
             "--seed", 5, "--subset-size", 10, "--subsets", 5, "--splits", 2)  # fmt: skip
    ran = run("judge", *words, "--json", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    found = ran.json
    read, made = (found["models"][str(place / name)] for name in ("made", "run"))
    assert set(read) == {f"{kind} (resnet8-cifar10, N=24)" for kind in ("IS", "KID", "FD", "precision", "recall")}
    assert {name: row["mean"] for name, row in read.items()} == pytest.approx(
        {name: row["mean"] for name, row in made.items()}, rel=1e-4, abs=1e-6
    )
    assert (found["count"], found["data"]["images"], found["data"]["size"]) == (24, 40, 8)
    assert found["features"]["network"] == "resnet8-cifar10"
    assert len(found["features"]["sha256"]) == 64
    assert found["samples"][str(place / "made")]["left_out"] == ["grid.png"]
    by = found["samples"][str(place / "run")]["made_by"]
    assert (by["weights"], by["steps"], by["sampler"], by["seed"]) == ("best", 2, "ddim", 5)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == found
    with Image.open(tmp_path / "out" / "pictures.png") as page:
        assert page.size == (8 * 10 + 2, 3 * 10 + 2)
    said = run("judge", *words, "-o", tmp_path / "out")  # its own results it replaces
    assert said.code == 0, said.err
    assert "FD (resnet8-cifar10, N=24)" in said.out
    assert "N=24 pictures each, against 40 images of" in said.out
    assert "cut to 8x8" in said.out
    assert "8x8; 2 steps of ddim, seed 5; by best; left out grid.png" in said.out
    assert "FID" not in said.out


def test_a_folder_alone_says_how_the_data_is_cut(place: Path, run: Run) -> None:
    ran = run("judge", place / "made", "--data", place / "data", "-n", 7, "--data-count", 30, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["count"], ran.json["data"]["images"], ran.json["data"]["size"]) == (7, 30, 8)
    assert ran.json["missing"] == dict.fromkeys(
        ("IS", "KID", "FD", "precision", "recall"), "no feature network: give --features FILE"
    )
    said = run("judge", place / "made", "--data", place / "data").out
    assert "Not measured: IS, KID, FD, precision, recall (no feature network: give --features FILE)" in said


def test_one_image_is_measured_by_its_patches(place: Path, run: Run, tmp_path: Path) -> None:
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB").crop((0, 0, 96, 64))
    whole.save(tmp_path / "image.png")
    array = np.asarray(whole)
    np.savez(tmp_path / "moved.npz", images=np.stack([np.roll(array, 16 * i, 1) for i in range(1, 4)]))
    np.savez(tmp_path / "dark.npz", images=np.stack([array // 4] * 3))
    words = (tmp_path / "moved.npz", tmp_path / "dark.npz", "--data", tmp_path / "image.png")
    ran = run("judge", *words, "--lpips", place / "lpips.safetensors", "--json")
    assert ran.code == 0, ran.err
    moved, dark = (ran.json["models"][str(tmp_path / name)] for name in ("moved.npz", "dark.npz"))
    assert set(moved) == {"patch FD (LPIPS alex, relu1)", "LPIPS diversity (alex)", "pixel deviation"}
    assert moved["patch FD (LPIPS alex, relu1)"]["mean"] < dark["patch FD (LPIPS alex, relu1)"]["mean"]
    assert moved["LPIPS diversity (alex)"]["mean"] > dark["LPIPS diversity (alex)"]["mean"]
    assert (moved["pixel deviation"]["mean"] > 0, dark["pixel deviation"]["mean"]) == (True, 0)
    said = run("judge", *words, "--features", place / "lenet.pt")
    assert said.code == 0, said.err
    assert "N=3 pictures each, against the image" in said.out
    assert "LPIPS diversity (no weights: give --lpips FILE)" in said.out
    assert "patch FD (lenet5-mnist) (it judges whole pictures" in said.out


def test_what_cannot_be_judged_is_one_line(place: Path, run: Run, tmp_path: Path) -> None:
    data = ("--data", place / "data")
    assert run("judge", "nowhere", *data).line == "nowhere: no such file or folder"
    assert run("judge", place / "made", "--data", "nowhere").line == "nowhere: no such file or folder"
    assert "holds 24 pictures, fewer than 25: give --count 24" in run("judge", place / "made", "-n", 25, *data).line
    unequal = run("judge", place / "made", place / "data", *data).line
    assert unequal.endswith("numbers over different N do not compare: give --count 24")
    assert run("judge", place / "run", *data).line.endswith("makes as many pictures as you say: give --count N")
    steps = run("judge", place / "run", "-n", 2, "--steps", 21, *data).line
    assert "steps 21 must lie between 1 and the 20 of the training" in steps
    assert "trained without classes" in run("judge", place / "run", "-n", 2, "--steps", 2, "--class", 3, *data).line
    assert "is no LeNet-5" not in run("judge", place / "made", *data, "--features", place / "lpips.safetensors").line
    (tmp_path / "evaluation.json").write_text("{}")
    assert "was not written by prismify" in run("judge", place / "made", *data, "-o", tmp_path).line
    assert "what a denoiser makes is measured by `prismify judge`" in run("evaluate", place / "run", *data).line
