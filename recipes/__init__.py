"""Recipes for retraining converted models: one readable file a recipe, and `configs` with complete settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prismify.training.schema import AutoencoderRecipe, DistillationRecipe, Recipe


def carry_out(recipe: Recipe, watch: Any = lambda event: None, *, restart: bool = False) -> Path:
    """Train as a recipe says; returns the run's folder.

    Args:
        watch: is told every `prismify.training.run.Event`.
        restart: forget what the folder holds of an earlier run.
    """
    if isinstance(recipe, AutoencoderRecipe):
        from . import autoencoder

        return autoencoder.train(recipe, watch, restart=restart)
    assert isinstance(recipe, DistillationRecipe)
    from . import distillation

    return distillation.train(recipe, watch, restart=restart)
