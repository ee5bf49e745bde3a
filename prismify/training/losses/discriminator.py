"""PatchGAN: a convolutional discriminator that judges patches (pix2pix, Sec. 3.2.2; as in LDM)."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from ...generators import kept_generators, seed_generators
from ..schema import Discriminator


class PatchDiscriminator(nn.Module):
    """Images (B, C, H, W) to logits (B, 1, h, w), one a patch: high where it looks real.

    `layers` halvings, then one layer at full size and the logits, kernels 4×4. Its weights start as N(0, 0.02).

    Args:
        in_channels: C.
        norm: "group" is the same for any split of the batch; "batch" is pix2pix's.
    """

    def __init__(self, in_channels: int, options: Discriminator) -> None:
        super().__init__()
        width = options.channels
        body: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for depth in range(1, options.layers + 1):
            before, width = width, options.channels * min(2**depth, 8)
            stride = 2 if depth < options.layers else 1
            body += [nn.Conv2d(before, width, 4, stride, 1, bias=options.norm == "none")]
            body += [*_norm(options.norm, width), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(width, 1, 4, 1, 1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


class Judged(nn.Module):
    """Real and reconstructed images in one pass, as distributed training wants it: a pair of logits."""

    def __init__(self, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return self.discriminator(real), self.discriminator(fake)


def make_judge(in_channels: int, options: Discriminator, seed: int) -> Judged:
    """A judge that has learned nothing yet: a function of its arguments alone, whatever was drawn before it."""
    with kept_generators():
        seed_generators(seed)
        return Judged(PatchDiscriminator(in_channels, options))


def smallest_side(options: Discriminator) -> int:
    """The least side of an image that leaves one patch."""
    side = 1
    for stride in (1, 1, *(2,) * options.layers):
        side = (side - 1) * stride + 2
    return side


def _norm(kind: str, width: int) -> list[nn.Module]:
    if kind == "group":
        return [nn.GroupNorm(gcd(32, width), width)]
    return [nn.BatchNorm2d(width)] if kind == "batch" else []


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def set_trainable(module: nn.Module, on: bool) -> None:
    """Let gradients reach a module's weights, or pass through it only."""
    for parameter in module.parameters():
        parameter.requires_grad_(on)


def mean_logit(logits: Tensor) -> Tensor:
    """One number about many patches, without its gradient."""
    return logits.detach().float().mean() if logits.numel() else torch.zeros(())
