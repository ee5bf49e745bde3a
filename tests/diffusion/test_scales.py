"""One picture at several sizes, against SinDDM's formulas written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prismify.diffusion import Noising
from prismify.diffusion.pyramid import ScaleStream, sizes_of_picture
from prismify.diffusion.scales import distance, gammas, sizes_for, sizes_of, starts
from prismify.errors import RecipeError
from prismify.training.data import Shares, batches, open_data
from prismify.training.schema import Data, Noise, Scales

BALLOONS = Path(__file__).parents[2] / "examples" / "images" / "balloons.png"
NOISE = Noise(timesteps=100, schedule="squaredcos_cap_v2")


def published(size: tuple[int, int], factor: float = 1.411) -> tuple[float, list[tuple[int, int]]]:
    """The factor and the sizes, as the published code has them."""
    shrink = np.sqrt(size[0] * size[1] / 50000)
    width, height = (int(side / shrink) for side in size) if shrink > 1 else size
    smallest = int(np.clip(round(np.sqrt(3110 * min(width, height) / max(width, height))), 42, 55))
    count = int(round(np.log(min(width, height) / smallest) / np.log(factor)) + 1)
    step = np.exp(np.log(min(width, height) / smallest) / (count - 1))
    shares = [np.power(step, count - 1 - i) for i in range(count)]
    return step, [(round(float(width / share)), round(float(height / share))) for share in shares]


@pytest.mark.parametrize(
    "size", [(248, 186), (186, 248), (252, 198), (282, 176), (100, 100), (4000, 3000), (900, 200), (67, 66)]
)
def test_sizes(size: tuple[int, int]) -> None:
    factor, sizes = sizes_of(*size, Scales())
    wanted = published(size)
    assert factor == pytest.approx(wanted[0])
    assert list(sizes) == wanted[1]


def test_the_sizes_of_a_known_picture() -> None:
    factor, sizes = sizes_of(248, 186, Scales())
    assert sizes == ((64, 48), (90, 67), (126, 94), (177, 133), (248, 186))
    assert factor == pytest.approx(1.40303, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((60, 60), "a picture of 60x60 is too small for two scales: its shorter side must have 66 pixels"),
        ((3000, 20), "a picture of 2738x18 is too small for two scales: its shorter side must have 50 pixels"),
        ((200_000, 1), "a picture of 100000x1 is too small for two scales"),
    ],
)
def test_pictures_that_are_too_small(size: tuple[int, int], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        sizes_of(*size, Scales())
    assert message in str(caught.value)


def test_distances_blur_and_starts_of_a_known_picture() -> None:
    stream, _ = open_data(Data(path=str(BALLOONS), validation=0), 0)
    sizes = sizes_of_picture(stream, Scales())
    whole = Image.open(BALLOONS).convert("RGB")
    small = [whole.resize(size, Image.Resampling.LANCZOS) for size in sizes.pyramid.sizes]
    large = [p.resize(size, Image.Resampling.BILINEAR) for p, size in zip(small, sizes.pyramid.sizes[1:], strict=False)]
    with np.errstate(all="ignore"):
        wanted = [
            float(np.linalg.norm(np.subtract(np.asarray(sharp), np.asarray(blurry))) / np.asarray(blurry).size)
            for sharp, blurry in zip(small[1:], large, strict=True)
        ]
    assert sizes.pyramid.distances == pytest.approx(wanted, rel=1e-9)

    times = torch.arange(101, dtype=torch.float64) / 100
    curve = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2  # Nichol & Dhariwal, 2021, Eq. 17
    kept = (1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999)).cumprod(0)
    sigma = ((1 - kept) / kept).sqrt()
    shares = gammas(Noising(NOISE), sizes.pyramid.distances)
    assert shares.shape == (5, 100)
    assert not shares[0].any()
    for row, value in zip(shares[1:], wanted, strict=True):
        torch.testing.assert_close(row.double(), (sigma / value).clamp(0, 1), rtol=1e-4, atol=1e-6)
    assert starts(Noising(NOISE), sizes.pyramid.distances) == [99, 52, 41, 31, 22]

    for scale, (width, height) in enumerate(sizes.pyramid.sizes):
        assert sizes.sharp[scale].shape == sizes.blurry[scale].shape == (3, height, width)
        mixed = sizes.blurred(scale, torch.tensor([0.0, 0.25, 1.0]))
        assert torch.equal(mixed[0], sizes.sharp[scale])
        assert torch.equal(mixed[2], sizes.blurry[scale])
        torch.testing.assert_close(mixed[1], 0.25 * sizes.blurry[scale] + 0.75 * sizes.sharp[scale])
    assert torch.equal(sizes.sharp[0], sizes.blurry[0])


def test_a_flat_picture_has_no_distance() -> None:
    assert distance(torch.full((3, 4, 5), 0.5), torch.full((3, 4, 5), 0.5), (-1, 1)) == 0
    assert torch.equal(gammas(Noising(NOISE), [0.0])[1], torch.ones(100))
    assert starts(Noising(NOISE), [0.0]) == [99, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_transparent_pictures(tmp_path: Path, channels: int) -> None:
    Image.open(BALLOONS).convert("LA").save(tmp_path / "grey.png")
    stream, _ = open_data(Data(path=str(tmp_path / "grey.png"), validation=0, channels=channels, range=(0, 1)), 0)
    sizes = sizes_of_picture(stream, Scales(max_pixels=8000))
    assert {len(t) for t in sizes.sharp + sizes.blurry} == {channels}
    assert all(0 <= float(t.min()) <= float(t.max()) <= 1 for t in sizes.sharp + sizes.blurry)


def test_other_sizes_keep_the_factor() -> None:
    stream, _ = open_data(Data(path=str(BALLOONS), validation=0), 0)
    pyramid = sizes_of_picture(stream, Scales(max_pixels=16000)).pyramid
    assert sizes_for(pyramid, None) == pyramid.sizes
    assert sizes_for(pyramid, pyramid.sizes[-1]) == pyramid.sizes
    wide = sizes_for(pyramid, (500, 90))
    assert (len(wide), wide[-1]) == (len(pyramid.sizes), (500, 90))
    assert wide[0] == (round(500 / pyramid.factor**2), round(90 / pyramid.factor**2))
    assert sizes_for(pyramid, (1, 1)) == ((1, 1),) * 3


def test_a_step_sees_one_scale_whoever_computes_it() -> None:
    one, _ = open_data(Data(path=str(BALLOONS), validation=0), 0)
    stream = ScaleStream(one.images, one.data, 3, count=5, batch_size=4)

    def seen(parts: int, processes: int, rank: int, first: int) -> list[list[int]]:
        source = batches(stream, Shares(4, parts, processes, rank), first)
        return [[int(v) for _ in range(parts) for v in next(source)] for _ in range(40 - first)]

    whole = seen(1, 1, 0, 0)
    assert all(len(set(step)) == 1 and len(step) == 4 for step in whole)
    assert {step[0] for step in whole} == set(range(5))
    assert seen(2, 1, 0, 0) == whole
    assert seen(1, 1, 0, 17) == whole[17:]
    assert [a + b for a, b in zip(seen(1, 2, 0, 0), seen(1, 2, 1, 0), strict=True)] == whole


def test_more_than_one_picture(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (90, 90)).save(tmp_path / f"{name}.png")
    stream, _ = open_data(Data(path=str(tmp_path), validation=0), 0)
    with pytest.raises(
        RecipeError, match=r"scales are of one picture, and .* holds 2: name a file, or set data.select"
    ):
        sizes_of_picture(stream, Scales())
