"""Samples of one image: patches against it, and how much they differ from each other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prismify.metrics.classifiers import LeNet
from prismify.metrics.distances import Spread
from prismify.metrics.diversity import PairwiseLPIPS, PixelDeviation, grey
from prismify.metrics.judges import Judges
from prismify.metrics.networks import FeatureNetwork, PatchNetwork, signed
from prismify.metrics.one_image import PatchDistance, measure_one_image
from prismify.training.losses import LPIPS, load_lpips
from prismify.training.schema import Perceptual

ROOT = Path(__file__).parents[2]
#: A pixel's colours as its features: what patches are is known then.
COLOURS = PatchNetwork("Inception", "colours", lambda images: images.float() / 255)


@pytest.fixture
def picture() -> Tensor:
    """A real picture, uint8 (1, 3, 96, 128)."""
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB").crop((0, 0, 128, 96))
    return torch.from_numpy(np.asarray(whole).copy()).permute(2, 0, 1)[None]


@pytest.fixture
def lpips() -> LPIPS:
    """LPIPS without its training: a distance all the same."""
    model = LPIPS("alex")
    for head in model.heads:
        head.copy_(torch.rand_like(head))
    return model


def shuffled(picture: Tensor, count: int) -> Tensor:
    """Pictures with the pixels of one in another order."""
    flat = picture.flatten(2)
    return torch.cat([flat[..., torch.randperm(flat.shape[2])] for _ in range(count)]).view(count, *picture.shape[1:])


def result(sums: PatchDistance | PairwiseLPIPS | PixelDeviation, pictures: Tensor) -> Spread:
    for one in pictures.split(1):
        sums.add(one)
    found = sums.result()
    assert isinstance(found, Spread)
    return found


def test_patches_are_compared_as_distributions(picture: Tensor) -> None:
    other = 255 - picture
    # By NumPy alone: the mean and the covariance of colours, and the root by eigenvalues.
    first, second = (x[0].flatten(1).numpy().astype(np.float64) / 255 for x in (picture, other))
    shift = first.mean(1) - second.mean(1)
    a, b = np.cov(first), np.cov(second)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    known = shift @ shift + np.trace(a) + np.trace(b) - 2 * root
    found = result(PatchDistance(COLOURS, picture), torch.cat([other, other]))
    assert found.mean == pytest.approx(known, rel=1e-6)
    assert found.deviation == pytest.approx(0, abs=1e-9)
    # Where they lie does not count.
    assert result(PatchDistance(COLOURS, picture), shuffled(picture, 3)).mean == pytest.approx(0, abs=1e-6)


def test_the_mean_lpips_over_pairs_is_that_of_all_pairs(lpips: LPIPS, picture: Tensor) -> None:
    pictures = torch.cat([picture, shuffled(picture, 2), picture.flip(-1), 255 - picture])
    pairs = itertools.combinations(signed(pictures).split(1), 2)
    with torch.no_grad():
        known = float(np.mean([float(lpips(one, other)) for one, other in pairs]))
    found = result(PairwiseLPIPS(lpips), pictures)
    assert found.over == "10 pairs"
    assert found.mean == pytest.approx(known, rel=1e-5)
    assert result(PairwiseLPIPS(lpips), picture.expand(4, -1, -1, -1)).mean == pytest.approx(0, abs=1e-9)


def test_the_deviation_of_pixels_is_as_gpdm_has_it(picture: Tensor) -> None:
    pictures = torch.cat([picture, shuffled(picture, 4)])
    greys = pictures.double().mean(1)
    known = float(greys.std(0).mean() / picture.double().mean(1).std())
    found = result(PixelDeviation(float(grey(picture).std())), pictures)
    assert found.mean == pytest.approx(known, rel=1e-9)
    assert found.over == "5 images"
    assert result(PixelDeviation(1.0), picture.expand(3, -1, -1, -1)).mean == 0


def test_samples_of_one_image(picture: Tensor, lpips: LPIPS) -> None:
    sets = {"copies": picture.expand(4, -1, -1, -1), "shuffled": shuffled(picture, 4)}
    found = measure_one_image({k: v.split(3) for k, v in sets.items()}, picture, Judges(lpips=lpips), shown=2)
    assert (found.count, found.references, found.missing) == (4, 1, {})
    names = ["patch FD (LPIPS alex, relu1)", "LPIPS diversity (alex)", "pixel deviation"]
    assert list(found.rows["copies"]) == list(found.rows["shuffled"]) == names
    for name in names:
        assert found.rows["copies"][name].mean == pytest.approx(0, abs=1e-4)
        assert found.rows["shuffled"][name].mean > 0.01
    assert found.rows["shuffled"][names[0]].over == "4 images"
    assert found.pictures.shape == (3 * 98 + 2, 2 * 130 + 2, 3)


def test_what_one_image_misses_is_named(picture: Tensor, lpips: LPIPS) -> None:
    lenet = FeatureNetwork("lenet5-mnist", "", "", LeNet())
    found = measure_one_image({"a": [picture, picture]}, picture, Judges(network=lenet))
    assert found.rows == {"a": {"pixel deviation": Spread(0.0, None, "2 images")}}
    assert found.missing == {
        "LPIPS diversity": "no weights: give --lpips FILE",
        "patch FD (lenet5-mnist)": "it judges whole pictures: give --lpips FILE, or FID's InceptionV3 by "
        "--features FILE",
    }
    assert "no network for patches" in measure_one_image({"a": [picture]}, picture, Judges()).missing["patch FD"]
    network = FeatureNetwork("Inception", "", "", LeNet(), COLOURS)
    both = measure_one_image({"a": [picture, picture]}, picture, Judges(lpips, network))
    assert list(both.rows["a"])[:2] == ["SIFID (Inception, colours)", "patch FD (LPIPS alex, relu1)"]
    sizes = measure_one_image({"a": [picture, picture[..., :64]]}, picture, Judges(lpips=lpips))
    assert list(sizes.rows["a"]) == ["patch FD (LPIPS alex, relu1)"]
    assert set(sizes.missing.values()) == {"a has pictures of several sizes"}
    one = measure_one_image({"a": [picture]}, picture, Judges(lpips=lpips))
    assert one.missing["pixel deviation"] == "a has one picture, and no deviation"
    assert one.missing["LPIPS diversity (alex)"] == "a has one picture, and no pair"
    assert one.rows["a"]["patch FD (LPIPS alex, relu1)"].deviation is None
    tiny = measure_one_image({"a": [picture[..., :4, :4]]}, picture, Judges(lpips=lpips))
    assert set(tiny.missing.values()) >= {"a has pictures of 4x4, too small for it"}
    flat = measure_one_image({"a": [picture, picture]}, torch.zeros_like(picture), Judges())
    assert flat.missing["pixel deviation"] == "a is compared with an image of one colour"


@pytest.mark.data
@pytest.mark.parametrize(("net", "file"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_pieces_of_an_image_have_its_patches(shared_data: Path, net: str, file: str) -> None:
    weights = shared_data / "lpips" / f"lpips_{file}_v0.1_fp16.safetensors"
    lpips = load_lpips(Perceptual(net=net, weights=str(weights)))[0]  # type: ignore[arg-type]

    def opened(name: str) -> Tensor:
        whole = Image.open(shared_data / "sinddm_images" / name).convert("RGB").resize((128, 96))
        return torch.from_numpy(np.asarray(whole).copy()).permute(2, 0, 1)[None]

    image, other = opened("balloons.png"), opened("starry_night.png")
    moved = torch.cat([image.roll(32, -1), image.roll(24, -2)])
    sets = {"moved": [moved], "other": [torch.cat([other, other.flip(-1)])]}
    found = measure_one_image(sets, image, Judges(lpips=lpips)).rows
    name = next(iter(found["moved"]))
    assert found["moved"][name].mean < 0.1 * found["other"][name].mean
