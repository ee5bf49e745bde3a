"""Pictures beside their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoint.atomic import whole_file

_GAP = 2


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


def write_png(path: Path, pixels: Any) -> None:
    """Write uint8 (H, W, 3) as a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        Image.fromarray(pixels).save(draft, format="PNG")
