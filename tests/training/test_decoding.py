"""Images as people have them: deep, sideways, transparent, too large."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prismify.errors import DataError, RecipeError
from prismify.training.data import Stream, open_images
from prismify.training.schema import Data

RAMP = np.arange(256)[None].repeat(16, 0)


def first(path: Path, **how: Any) -> torch.Tensor:
    data = Data(path=str(path), **how)
    return Stream(open_images(data), data, 0).first()[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str, channels: int) -> None:
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(tmp_path / f"a{suffix}")
    found = first(tmp_path / f"a{suffix}", channels=channels, range=(0.0, 1.0))
    assert found.shape == (channels, 16, 256)
    assert torch.allclose(found, torch.from_numpy(RAMP / 255).float().expand(channels, -1, -1), atol=1e-6)


def test_no_level_of_sixteen_bits_is_lost(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(values).save(tmp_path / "a.png")
    assert len(first(tmp_path / "a.png").unique()) == 4096
    cut = first(tmp_path / "a.png", size=32, crop="random", flip=True)
    assert cut.shape == (3, 32, 32)
    assert -1 <= float(cut.min()) < float(cut.max()) <= 1  # resampled without overshooting


def test_floats_are_read_from_nought_to_one(tmp_path: Path) -> None:
    Image.fromarray((RAMP / 255).astype(np.float32)).save(tmp_path / "a.tif")
    assert torch.allclose(first(tmp_path / "a.tif")[0], torch.from_numpy(RAMP / 127.5 - 1).float(), atol=1e-6)
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"b.tif holds values from 0 to 255, where black is 0 and white 1: set data.wh"):
        first(tmp_path / "b.tif")
    assert torch.allclose(first(tmp_path / "b.tif", white=255.0), first(tmp_path / "a.tif"), atol=1e-6)


@pytest.mark.parametrize("value", [-0.5, 3.0, np.nan, np.inf])
def test_floats_beyond_black_and_white_are_named(tmp_path: Path, value: float) -> None:
    values = (RAMP / 255).astype(np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif holds values from .*: set data.white"):
        first(tmp_path / "a.tif")


def test_wide_whole_numbers_need_their_white(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 1000).astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif holds whole numbers of 32 bits: set data.white"):
        first(tmp_path / "a.tif")
    assert len(first(tmp_path / "a.tif", white=255_000.0).unique()) == 256


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[:16, :16] = 255  # the top left corner
    stored = Image.fromarray(upright)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a{suffix}", exif=exif, **({"quality": 95} if suffix in (".jpg", ".webp") else {}))
    found = first(tmp_path / f"a{suffix}")
    assert found.shape == (3, 48, 32)
    assert float(found[:, :12, :12].mean()) > 0.8
    assert float(found[:, 20:].mean()) < -0.8


def test_damaged_tags_do_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff" + bytes(range(9)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first(tmp_path / "a.jpg").shape == (3, 8, 8)


def transparent(kind: str, path: Path) -> None:
    """Noise that alpha hides, but for a dark square in the middle."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    noise[..., 3] = 0
    noise[8:24, 8:24] = (60, 60, 60, 255)
    picture = Image.fromarray(noise)
    if kind == "LA":
        picture = Image.merge("LA", (picture.getchannel(0), picture.getchannel(3)))
    elif kind == "P":
        levels = np.where(noise[..., 3] == 0, noise[..., 0] % 8, 8).astype(np.uint8)
        picture = Image.fromarray(levels)
        picture.putpalette([*range(24), 60, 60, 60])
    elif kind in ("L", "RGB", "I;16"):
        grey = np.where(noise[..., 3] == 0, 9, 60).astype(np.uint8)
        wide = Image.fromarray(grey.astype(np.uint16) * 257)
        picture = wide if kind == "I;16" else Image.fromarray(grey).convert(kind)
    key = {"P": bytes(8), "L": 9, "RGB": (9, 9, 9), "I;16": 9 * 257}.get(kind)
    picture.save(path, **({"transparency": key} if key is not None else {}))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
@pytest.mark.parametrize(("background", "value"), [("white", 255), ("#808080", 128), ("black", 0)])
def test_what_alpha_hides_is_the_background(tmp_path: Path, kind: str, background: str, value: int) -> None:
    transparent(kind, tmp_path / "a.png")
    found = first(tmp_path / "a.png", background=background, range=(0.0, 255.0))
    assert torch.equal(found[:, :8].unique(), torch.tensor([float(value)]))
    assert torch.allclose(found[:, 8:24, 8:24], torch.tensor(60.0), atol=1e-3)
    assert first(tmp_path / "a.png", channels=1).shape == (1, 32, 32)


def test_the_default_background_is_white_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    transparent("RGBA", tmp_path / "a.png")
    assert torch.equal(first(tmp_path / "a.png"), first(tmp_path / "a.png", background="#ffffff"))
    for wrong in ("blanc", "#12345678"):
        with pytest.raises(RecipeError, match=r"data: background .* is no colour such as white or '#808080'"):
            Data(background=wrong)
    with pytest.raises(RecipeError, match="data: white -1 must be a positive number"):
        Data(white=-1.0)


def test_an_image_too_large_is_named_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (13000, 13000)).save(tmp_path / "a.png")
    data = Data(path=str(tmp_path))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # it is not asked
    with pytest.raises(DataError, match=r"a.png is 13000x13000, more than data.max_pixels=90,000,000: raise that"):
        open_images(data).picture(0)
    monkeypatch.undo()
    Image.new("1", (100, 90)).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    assert first(tmp_path / "a.png", max_pixels=9000).shape == (3, 90, 100)
    with pytest.raises(DataError, match=r"is 100x90, more than data.max_pixels=8,999"):
        first(tmp_path / "a.png", max_pixels=8999)
    assert before == Image.MAX_IMAGE_PIXELS


def test_no_image_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    shutil.move(tmp_path / "a.eps", tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot identify image file"):
        open_images(Data(path=str(tmp_path))).picture(0)
