"""Samples against a data set: where they come from, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prismify.diffusion import Denoiser
from prismify.diffusion.making import Wanted
from prismify.diffusion.opening import Opened
from prismify.diffusion.record import Trained
from prismify.diffusion.writing import write_samples
from prismify.errors import DataError
from prismify.metrics.classifiers import CifarResNet
from prismify.metrics.judges import Judges
from prismify.metrics.networks import FeatureNetwork, load_network
from prismify.metrics.sample_sets import equal_count, made_samples, read_samples
from prismify.metrics.samples import measure_samples
from prismify.training.schema import Noise

CPU = torch.device("cpu")


@pytest.fixture
def network() -> FeatureNetwork:
    return FeatureNetwork("resnet8-test", "file.th", "0" * 64, CifarResNet(1).eval().requires_grad_(False))


@pytest.fixture
def opened() -> Opened:
    unet = diffusers.UNet2DModel(
        in_channels=1, out_channels=1, block_out_channels=(4,), layers_per_block=1, norm_num_groups=2, sample_size=8,
        add_attention=False, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    return Opened(Denoiser(unet.eval()), Trained(noise=Noise(timesteps=20), shape=(1, 8, 8)))


def pixels(count: int, size: int = 8, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=draws, dtype=torch.uint8)


def all_of(batches: Any) -> Tensor:
    return torch.cat(list(batches))


def test_what_sample_writes_is_read_without_the_grid(tmp_path: Path, opened: Opened) -> None:
    wanted = Wanted(count=6, steps=2, seed=3, batch_size=4)
    write_samples(opened, wanted, tmp_path, "net", CPU, lambda done, steps: None)
    found = read_samples(str(tmp_path), batch_size=4)
    assert (found.count, found.size, found.left_out) == (6, (8, 8), ("grid.png",))
    said = {"model": "net", "weights": "", "steps": 2, "sampler": "ddim", "seed": 3, "guidance": 1.0}
    assert found.made_by == {**said, "label": None, "prompt": None}
    read = all_of(found.batches)
    made = made_samples(opened, wanted)
    assert (made.count, made.size) == (6, (8, 8))
    assert made.made_by["sampler"] == "ddim"
    assert torch.equal(read, all_of(made.batches))  # pictures lie there as they were made
    # A smaller number in the same folder leaves earlier pictures behind.
    write_samples(opened, Wanted(count=2, steps=2), tmp_path, "net", CPU, lambda done, steps: None)
    again = read_samples(str(tmp_path))
    assert again.count == 2
    assert again.left_out == ("0002.png", "0003.png", "0004.png", "0005.png", "grid.png")
    (tmp_path / "0001.png").unlink()
    with pytest.raises(DataError, match=r"samples.json tells of 2 pictures, and 0001.png is not there"):
        read_samples(str(tmp_path))
    facts = json.loads((tmp_path / "samples.json").read_text())
    (tmp_path / "samples.json").write_text(json.dumps(facts | {"count": 10**15}))
    with pytest.raises(DataError, match=r"is not there"):
        read_samples(str(tmp_path))


def test_arrays_and_folders_of_others_are_samples_as_well(tmp_path: Path) -> None:
    array = pixels(12).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "samples.npz", images=array)
    found = read_samples(str(tmp_path / "samples.npz"), 5, seed=1, batch_size=2)
    chosen = all_of(found.batches)
    assert chosen.shape == (5, 3, 8, 8)
    rows = {row.tobytes() for row in array.transpose(0, 3, 1, 2)}
    assert {row.tobytes() for row in chosen.numpy()} < rows
    with pytest.raises(DataError, match=r"holds 12 pictures, fewer than 13: give --count 12"):
        read_samples(str(tmp_path / "samples.npz"), 13)
    (tmp_path / "made").mkdir()
    Image.fromarray(array[0]).save(tmp_path / "made" / "grid.png")
    with pytest.raises(DataError, match=r"holds no picture but grid.png"):
        read_samples(str(tmp_path / "made"))
    Image.fromarray(array[0]).save(tmp_path / "made" / "a.png")
    (tmp_path / "made" / "samples.json").write_text("[]")
    assert read_samples(str(tmp_path / "made")).left_out == ("grid.png",)
    assert read_samples(str(tmp_path / "made")).made_by == {}


def test_only_equal_sets_are_compared() -> None:
    equal_count([("a", 3), ("b", 3)])
    with pytest.raises(DataError, match=r"a holds 3 pictures, b 2, .* different N do not compare: give --count 2"):
        equal_count([("a", 3), ("b", 2)])


def test_every_number_says_its_network_and_its_n(network: FeatureNetwork) -> None:
    judges = Judges(network=network, splits=2, subsets=5, subset_size=10)
    reference = pixels(50, seed=1)
    sets = {"like": pixels(40), "dark": pixels(40) // 8}
    found = measure_samples({k: v.split(16) for k, v in sets.items()}, reference.split(16), judges, shown=3)
    assert (found.count, found.references, found.missing) == (40, 50, {})
    names = {kind: f"{kind} (resnet8-test, N=40)" for kind in ("IS", "KID", "FD", "precision", "recall")}
    assert list(found.rows) == ["like", "dark"]
    assert set(found.rows["like"]) == set(names.values())
    assert set(found.of_reference) == {"IS (resnet8-test, N=50)"}
    like, dark = found.rows["like"], found.rows["dark"]
    assert like[names["FD"]].mean < dark[names["FD"]].mean
    assert like[names["KID"]].mean < dark[names["KID"]].mean
    assert like[names["precision"]].mean > dark[names["precision"]].mean
    assert like[names["FD"]].over == "40 images"
    assert like[names["recall"]].over == "3 neighbours among 40 and 40"
    assert found.pictures.shape == (3 * 10 + 2, 3 * 10 + 2, 3)
    # Batches are no part of it.
    again = measure_samples({"like": [sets["like"]]}, [reference], judges)
    assert again.rows["like"][names["FD"]].mean == pytest.approx(like[names["FD"]].mean, rel=1e-4)


def test_what_is_missing_is_named(network: FeatureNetwork) -> None:
    few = measure_samples({"few": [pixels(3)]}, [pixels(40)], Judges(network=network))
    assert set(few.rows["few"]) == {"FD (resnet8-test, N=3)"}
    assert few.missing == {
        "IS (resnet8-test, N=3)": "3 images are fewer than its 10 splits",
        "KID (resnet8-test, N=3)": "3 images are fewer than 20",
        "precision (resnet8-test, N=3)": "3 images have no 3 neighbours each",
        "recall (resnet8-test, N=3)": "3 images have no 3 neighbours each",
    }
    without = measure_samples({"a": [pixels(4)]}, [pixels(5)], Judges())
    assert (without.count, without.references, without.rows) == (4, 5, {"a": {}})
    assert set(without.missing) == {"IS", "KID", "FD", "precision", "recall"}
    assert set(without.missing.values()) == {"no feature network: give --features FILE"}


@pytest.mark.data
def test_real_digits_are_close_to_others_and_far_from_noise(shared_data: Path) -> None:
    network = load_network(shared_data / "mnist_lenet" / "lenet.pth", CPU)

    def digits(name: str) -> tuple[Tensor, Tensor]:
        content = np.load(shared_data / "mnist" / f"{name}.npz")  # which is sorted by class
        every = len(content["labels"]) // 1000
        images, labels = (torch.from_numpy(content[key][::every][:1000]) for key in ("images", "labels"))
        return images[:, None].expand(-1, 3, -1, -1), labels

    (held_out, labels), noise, (reference, _) = digits("test"), pixels(1000, 28), digits("train")
    blurred = torch.nn.functional.avg_pool2d(held_out.float(), 5, 1, 2).to(torch.uint8)
    ones = held_out[labels == 1]
    judges = Judges(network=network, subsets=20, subset_size=200)
    sets = {"test": held_out, "blurred": blurred, "noise": noise}
    found = measure_samples({k: [v] for k, v in sets.items()}, [reference], judges)
    of = {name: {key.split()[0]: spread for key, spread in row.items()} for name, row in found.rows.items()}
    for kind in ("KID", "FD"):
        assert of["test"][kind].mean < of["blurred"][kind].mean < of["noise"][kind].mean
    assert abs(of["test"]["KID"].mean) < 0.02 * of["blurred"]["KID"].mean
    assert of["test"]["IS"].mean > 9
    assert of["noise"]["IS"].mean < 3
    assert min(of["test"]["precision"].mean, of["test"]["recall"].mean) > 0.85
    assert max(of["noise"]["precision"].mean, of["noise"]["recall"].mean) < 0.05
    # One class of ten: as good, and not as varied.
    only = measure_samples({"ones": [ones]}, [reference], judges).rows["ones"]
    assert only[f"precision (lenet5-mnist, N={len(ones)})"].mean > 0.85
    assert only[f"recall (lenet5-mnist, N={len(ones)})"].mean < 0.3
