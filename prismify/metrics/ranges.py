"""Models that see black and white as other numbers, measured on the same images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..graph.latents import decode

Range = tuple[float, float]


class InRange(nn.Module):
    """An autoencoder with a range of its own, for images in another.

    Args:
        own: what black and white are for the model.
        given: what they are in the images that it is given, and returns.
    """

    def __init__(self, model: nn.Module, own: Range, given: Range) -> None:
        super().__init__()
        self.model, self.own, self.given = model, own, given

    def encode(self, images: Tensor) -> Any:
        return self.model.encode(moved(images, self.given, self.own))  # type: ignore[operator]

    def decode(self, latents: Tensor) -> Tensor:
        return moved(decode(self.model, latents)[0], self.own, self.given)


def moved(images: Tensor, before: Range, after: Range) -> Tensor:
    """Images with black and white put from one range to another."""
    if before == after:
        return images
    scale = (after[1] - after[0]) / (before[1] - before[0])
    return (images - before[0]) * scale + after[0]
