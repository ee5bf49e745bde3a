"""Recipes for retraining converted models: one readable file a recipe, and `configs` with complete settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prismify.checkpoint import Trust
from prismify.training.models import NO_TRUST
from prismify.training.own import is_own, own_recipe
from prismify.training.schema import AutoencoderRecipe, DiffusionRecipe, DistillationRecipe, Recipe, SearchRecipe


def carry_out(
    recipe: Recipe, watch: Any = lambda event: None, *, restart: bool = False, trust: Trust = NO_TRUST
) -> Path:
    """Train as a recipe says; returns the run's folder.

    Args:
        watch: is told every `prismify.training.engine.events.Event`.
        restart: forget what the folder holds of an earlier run.
        trust: what the models may do; a recipe that names Python code needs `Trust(code=True)`.
    """
    if is_own(recipe.recipe):
        return Path(own_recipe(recipe.recipe, "the recipe", trust)(recipe, watch, restart=restart, trust=trust))
    if isinstance(recipe, AutoencoderRecipe):
        from . import autoencoder

        return autoencoder.train(recipe, watch, restart=restart, trust=trust)
    if isinstance(recipe, DiffusionRecipe) and recipe.scales is not None:
        from . import single_image

        return single_image.train(recipe, watch, restart=restart, trust=trust)
    if isinstance(recipe, DiffusionRecipe):
        from . import diffusion

        return diffusion.train(recipe, watch, restart=restart, trust=trust)
    if isinstance(recipe, SearchRecipe):
        from . import search

        return search.train(recipe, watch, restart=restart, trust=trust)
    assert isinstance(recipe, DistillationRecipe)
    from . import distillation

    return distillation.train(recipe, watch, restart=restart, trust=trust)
