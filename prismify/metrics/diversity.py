"""How much pictures differ from each other, from one look at each: only sums are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..training.losses import LPIPS, unit_length
from .distances import Spread
from .networks import signed


class PairwiseLPIPS:
    """The mean LPIPS over all pairs of pictures, from one look at each.

    LPIPS is a weighted sum of squared differences, and over the pairs of N vectors these add up to
    N Σ|u|² - |Σu|²: exact, and without N² passes.
    """

    def __init__(self, lpips: LPIPS) -> None:
        self.lpips = lpips
        self.count, self.squares = 0, 0.0
        self.sums: list[Tensor] = []
        self.trouble = ""

    @torch.no_grad()
    def add(self, picture: Tensor) -> None:
        """Take a picture in, uint8 (1, 3, H, W)."""
        if self.trouble:
            return
        try:
            taps = [unit_length(tap).double() for tap in self.lpips.taps_of(signed(picture))]
        except RuntimeError as error:
            if is_no_memory(error):
                raise
            self.trouble = f"has pictures of {size_text(picture)}, too small for it"
            return
        if self.sums and [s.shape for s in self.sums] != [t.shape for t in taps]:
            self.trouble = "has pictures of several sizes"
            return
        self.sums = [s + t for s, t in zip(self.sums, taps, strict=True)] if self.sums else taps
        self.squares += self._weighed(taps)
        self.count += 1

    def result(self) -> Spread | str:
        """The mean over pairs, or why there is none."""
        if self.trouble or self.count < 2:
            return self.trouble or "has one picture, and no pair"
        pairs = self.count * (self.count - 1) // 2
        total = self.count * self.squares - self._weighed(self.sums)
        return Spread(max(0.0, total) / pairs, None, f"{pairs} pairs")

    def _weighed(self, taps: list[Tensor]) -> float:
        heads = zip(taps, self.lpips.heads, strict=True)
        return sum(float((tap.square() * head).sum(1).mean()) for tap, head in heads)


class PixelDeviation:
    """The deviation of each pixel's grey over pictures, averaged, as a share of that within the reference.

    As SinGAN (Shaham et al., 2019, Sec. 3) and GPDM (Elnekave & Weiss, 2022) measure diversity.

    Args:
        of_reference: the deviation of grey within the reference.
    """

    def __init__(self, of_reference: float) -> None:
        self.of_reference = of_reference
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0
        self.trouble = ""

    def add(self, picture: Tensor) -> None:
        """Take a picture in, uint8 (1, 3, H, W)."""
        seen = grey(picture)
        if self.count and not self.trouble and seen.shape != self.mean.shape:
            self.trouble = "has pictures of several sizes"
        if self.trouble:
            return
        self.count += 1
        off = seen - self.mean  # Welford's sums, which lose no digits
        self.mean = self.mean + off / self.count
        self.squares = self.squares + off * (seen - self.mean)

    def result(self) -> Spread | str:
        """The share, or why there is none."""
        if self.trouble or self.count < 2:
            return self.trouble or "has one picture, and no deviation"
        if self.of_reference == 0:
            return "is compared with an image of one colour"
        found = float((self.squares / (self.count - 1)).sqrt().mean()) / self.of_reference
        return Spread(found, None, f"{self.count} images")


def grey(picture: Tensor) -> Tensor:
    """The mean of red, green and blue of a picture (1, 3, H, W): shape (H, W), float64."""
    return picture[0].double().mean(0)


def size_text(picture: Tensor) -> str:
    """Width and height, such as "250x188"."""
    return f"{picture.shape[3]}x{picture.shape[2]}"


def is_no_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory is full, and not that a picture is too small."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
