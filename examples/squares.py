"""Squares of a picture, in the place of a folder of images: `python examples/squares.py FOLDER [SIDE] [STEP]`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parent / "images" / "balloons.png"


def squares(picture: Path, side: int, step: int) -> list[Image.Image]:
    """The squares of `side` pixels at every `step`, row by row."""
    image = Image.open(picture).convert("RGB")
    lefts, tops = (range(0, length - side + 1, step) for length in image.size)
    return [image.crop((left, top, left + side, top + side)) for top in tops for left in lefts]


def main(folder: str, side: str = "32", step: str = "") -> None:
    into = Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    for number, square in enumerate(squares(PICTURE, int(side), int(step or side))):
        square.save(into / f"{number:03}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
