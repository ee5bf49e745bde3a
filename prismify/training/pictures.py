"""Pictures beside their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..checkpoint.atomic import whole_file
from ..errors import OutputError
from ..validation import read_json_file

_GAP = 2
#: What the PNG files written here say of themselves.
_SIGNED = ("Software", "prismify")


def to_pixels(images: Tensor, value_range: tuple[float, float]) -> Any:
    """Images (B, C, H, W) at the model's range to uint8 (B, H, W, 3)."""
    black, white = value_range
    scaled = ((images.detach().float().cpu() - black) / (white - black)).clamp(0, 1)
    pixels = (scaled * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def sheet(rows: Sequence[Any]) -> Any:
    """One picture: each row a uint8 batch (B, H, W, 3), the first image of every row in the first column."""
    count, height, width, _ = rows[0].shape
    page = np.full((len(rows) * (height + _GAP) + _GAP, count * (width + _GAP) + _GAP, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row):
            top, left = _GAP + r * (height + _GAP), _GAP + c * (width + _GAP)
            page[top : top + height, left : left + width] = pixels
    return page


def grid(pixels: Any) -> Any:
    """One picture of a uint8 batch (B, H, W, 3), as square as it gets; what is left over stays white."""
    count = len(pixels)
    columns = math.isqrt(count - 1) + 1
    filled = np.full((-(-count // columns) * columns, *pixels.shape[1:]), 255, dtype=np.uint8)
    filled[:count] = pixels
    return sheet(list(filled.reshape(-1, columns, *pixels.shape[1:])))


def write_png(path: Path, pixels: Any) -> None:
    """Write uint8 (H, W, 3) as a PNG that says who wrote it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signed = PngInfo()
    signed.add_text(*_SIGNED)
    with whole_file(path) as draft:
        Image.fromarray(pixels).save(draft, format="PNG", pnginfo=signed)


def check_replaceable(folder: Path, paths: Iterable[Path]) -> None:
    """See that pictures written below a folder take the place of nothing but earlier ones.

    Raises:
        OutputError: a file that `write_png` did not write would be replaced, or a link leads out of the folder.
    """
    for path in paths:
        if any(p.is_symlink() for p in (path, *path.parents) if folder in p.parents):
            raise OutputError(f"{path}: a link leads out of {folder}; choose another output")
        if path.exists() and not (path.is_file() and _is_signed(path)):
            raise OutputError(f"{path} exists and was not written by prismify; choose another output")


def check_own_table(path: Path, keys: set[str]) -> None:
    """See that a JSON file takes the place of nothing but an earlier one, which has these keys.

    Raises:
        OutputError: something else lies there.
    """
    try:
        earlier = read_json_file(path) if path.exists() else dict.fromkeys(keys)
    except (OSError, ValueError):
        earlier = None
    if path.is_symlink() or not isinstance(earlier, dict) or not keys <= earlier.keys():
        raise OutputError(f"{path} exists and was not written by prismify; choose another output")


def _is_signed(path: Path) -> bool:
    with path.open("rb") as file:
        return "\0".join(_SIGNED).encode() in file.read(256)
