"""What a recipe may say. Every key is a field here; `training.recipe` reads files into these."""

from .autoencoder import AutoencoderLoss, AutoencoderRecipe, Discriminator
from .common import Checkpoints, Data, Log, ModelSource, Perceptual, Rates, Recipe, Train
from .diffusion import Condition, DiffusionLoss, DiffusionRecipe, Latents, Noise, Sampling, Scales, Teaching
from .distillation import BlockLessons, DistillationLoss, DistillationRecipe
from .search import SearchRecipe

#: The value of `recipe:` -> what the rest of the file must look like.
SCHEMAS: dict[str, type[Recipe]] = {
    "autoencoder": AutoencoderRecipe,
    "distillation": DistillationRecipe,
    "diffusion": DiffusionRecipe,
    "search": SearchRecipe,
}

__all__ = [
    "SCHEMAS",
    "AutoencoderLoss",
    "AutoencoderRecipe",
    "BlockLessons",
    "Checkpoints",
    "Condition",
    "Data",
    "DiffusionLoss",
    "DiffusionRecipe",
    "Discriminator",
    "DistillationLoss",
    "DistillationRecipe",
    "Latents",
    "Log",
    "ModelSource",
    "Noise",
    "Perceptual",
    "Rates",
    "Recipe",
    "Sampling",
    "Scales",
    "SearchRecipe",
    "Teaching",
    "Train",
]
