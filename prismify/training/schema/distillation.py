"""What a recipe says by which a model learns from its original."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...errors import RecipeError
from ..bounds import numbers
from .common import ModelSource, Perceptual, Recipe


@dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    """What the student matches, as relative squared error: 1 is as bad as answering the teacher's mean.

    Args:
        output: what the teacher returns; of an autoencoder, what it decodes from its own latents.
        latent: the teacher's latents (autoencoders).
        image: the images themselves, through the student alone (autoencoders).
        features: the feature maps behind the layers named by `feature_layers`.
        feature_layers: patterns over layer names; the replaced layers where none is given.
        perceptual: LPIPS between the two outputs (where those are images).
    """

    output: float = 1.0
    latent: float = 1.0
    image: float = 0.0
    features: float = 0.0
    feature_layers: tuple[str, ...] = ()
    perceptual: float = 0.0
    lpips: Perceptual = field(default_factory=Perceptual)

    def __post_init__(self) -> None:
        terms = ("output", "latent", "image", "features", "perceptual")
        numbers("loss", self, "0 or a positive number", *terms, hint="; 0 leaves it out")
        if not any(getattr(self, name) for name in terms):
            raise RecipeError(f"loss: {', '.join(terms)} are all 0, so that nothing is trained")


@dataclass(frozen=True, kw_only=True)
class DistillationRecipe(Recipe):
    """Train a converted model to do what its original does.

    Args:
        teacher: the original; None takes what the converted folder was made from.
    """

    recipe: Literal["distillation"]
    teacher: ModelSource | None = None
    loss: DistillationLoss = DistillationLoss()
