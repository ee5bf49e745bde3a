"""What a recipe for autoencoders says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..bounds import numbers, whole
from .common import Perceptual, Recipe


@dataclass(frozen=True, kw_only=True)
class Discriminator:
    """PatchGAN: `layers` halvings from `channels` wide, with a learning rate of its own (None: the model's)."""

    channels: int = 64
    layers: int = 3
    norm: Literal["group", "batch", "none"] = "group"
    learning_rate: float | None = 2e-4

    def __post_init__(self) -> None:
        whole("discriminator", self, 2**16, channels=8)
        whole("discriminator", self, 30, layers=1)
        numbers("discriminator", self, "a positive number", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class AutoencoderLoss:
    """Reconstruction + perceptual + KL + adversarial (Sec. 4.1, Eqs. 6-9).

    Args:
        reconstruction: "l2", mean squared error as in the paper, or "l1" as in LDM's code.
        perceptual, kl, adversarial: λ1, λ2, λ3; 0 leaves a term out. The KL is summed over a latent.
        own: weight of the losses that the model's `encode` and `decode` return themselves, such as a codebook's.
        adversarial_start: the step from which the discriminator learns and counts.
        adaptive: scale the adversarial term by the ratio of gradients at the last layer, as LDM does.
    """

    reconstruction: Literal["l2", "l1"] = "l2"
    perceptual: float = 1.0
    kl: float = 1e-6
    own: float = 1.0
    adversarial: float = 0.5
    adversarial_start: int = 0
    adaptive: bool = True
    lpips: Perceptual = field(default_factory=Perceptual)
    discriminator: Discriminator = Discriminator()

    def __post_init__(self) -> None:
        numbers("loss", self, "0 or a positive number", "perceptual", "kl", "adversarial", hint="; 0 leaves it out")
        whole("loss", self, 2**53, adversarial_start=0)


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe(Recipe):
    """Retrain an autoencoder on images."""

    recipe: Literal["autoencoder"]
    loss: AutoencoderLoss = AutoencoderLoss()
