"""Pages of reconstructions: where they go, and whose files they never replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from prismify.errors import OutputError
from prismify.metrics.pairs import _places, write_pairs
from prismify.training.data import Stream, open_images
from prismify.training.schema import Data


class Same(nn.Module):
    """An autoencoder that loses nothing."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("one.png", "two.jpg", "a/two.png", "two.png"):
        Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def write(images: Path, folder: Path) -> list[Any]:
    data = Data(path=str(images), validation=0)
    return list(write_pairs(Same(), Stream(open_images(data), data, 0), folder, torch.device("cpu")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pictures_of_ones_own_are_not_replaced(images: Path, tmp_path: Path) -> None:
    before = contents(images)
    with pytest.raises(OutputError, match=r"\.png exists and was not written by prismify"):
        write(images, images)
    assert contents(images) == before
    assert len(write(images, tmp_path / "pages")) == 4
    assert len(write(images, tmp_path / "pages")) == 4  # its own it replaces
    assert set(contents(tmp_path / "pages")) == {"one.png", "two.png", "two.png.png", "a/two.png"}


def test_no_link_leads_out_of_the_output(images: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="a link leads out"):
        write(images, tmp_path / "pages")
    assert contents(tmp_path / "pages") == {}


def test_names_of_archives_stay_below_the_output() -> None:
    names = ["../../x.png", "/etc/x.jpg", "..", "a/../../x.png", "x"]
    places = _places(Path("out"), names)
    assert len(set(places)) == len(names)
    assert all(".." not in place.parts and place.is_relative_to("out") for place in places)


@pytest.mark.parametrize(
    "names",
    [
        ["a.bmp", "a.jpg", "a.png", "a.webp", "s/a.jpg", "s/a.png", "t/a.png"],
        ["A.png", "a.png", "a.PNG", "S/a.png", "s/A.jpg"],
        ["a.png", "a.png.png", "a.png.3.png", "a.png"],
        ["a.jpg", "a.png/b.jpg", "a.png/b.png", "b.png/c.png/d.jpg", "b.png/c.jpg", "b.png/c.png/d.png"],
        ["x.jpg"] * 4,
        ["..", "/", "", "image.png", "../image.jpg"],
    ],
)
def test_no_page_takes_the_place_of_another(names: list[str], tmp_path: Path) -> None:
    places = _places(tmp_path, names)
    assert len({str(place).casefold() for place in places}) == len(names)
    for place in places:  # a page that were a folder of another could not be written
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert len(contents(tmp_path)) == len(names)
