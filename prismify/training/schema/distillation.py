"""What a recipe says by which a model learns from its original."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...errors import RecipeError
from ..bounds import numbers, whole
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
class BlockLessons:
    """Block by block, before the model as a whole: every block learns what the teacher's makes of the same inputs.

    Args:
        share: of the run, its steps or its minutes; 0 leaves it out.
        own_inputs: the last part of that share, in which blocks are given what the student itself gives them.
        at_once: blocks that learn in a step, in turn; None lets all learn, which takes the most memory.
        fitted: images on which the replaced layers are fitted to the teacher's in closed form before the first step;
            0 leaves the weights that the model came with.
        positions: of each call of a layer that such a fit looks at, at most.
    """

    share: float = 0.0
    own_inputs: float = 0.3
    at_once: int | None = None
    fitted: int = 0
    positions: int = 2000

    def __post_init__(self) -> None:
        numbers("blocks", self, "a number from 0 to 1", "share", "own_inputs")
        whole("blocks", self, 2**31, at_once=1, fitted=0, positions=1)


@dataclass(frozen=True, kw_only=True)
class DistillationRecipe(Recipe):
    """Train a converted model to do what its original does.

    Args:
        teacher: the original; None takes what the converted folder was made from.
        blocks: what comes before the model as a whole.
        remember: GiB of the teacher's answers that are kept, so that an image that comes again the same costs no pass
            of the teacher. A run that goes on may differ in the last bits then.
    """

    recipe: Literal["distillation"]
    teacher: ModelSource | None = None
    blocks: BlockLessons = BlockLessons()
    remember: float = 0.0
    loss: DistillationLoss = DistillationLoss()

    def __post_init__(self) -> None:
        numbers("distillation", self, "0 or a positive number", "remember", hint="; 0 asks the teacher every time")
