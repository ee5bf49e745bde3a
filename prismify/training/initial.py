"""What a model's weights start from, where a recipe wants them otherwise than they were made."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn

from ..errors import RecipeError


@torch.no_grad()
def start_at_zero(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Set the weights and biases of layers to zero; in place.

    A residual branch whose last layer starts at zero starts as nothing, and its block as the identity.

    Args:
        patterns: over qualified names (`*` and `?`), such as "*.conv2".

    Raises:
        RecipeError: a pattern matches no layer that has a weight.
    """
    for pattern in patterns:
        found = [
            module
            for name, module in model.named_modules()
            if fnmatchcase(name, pattern) and isinstance(getattr(module, "weight", None), nn.Parameter)
        ]
        if not found:
            raise RecipeError(f"model.zero: {pattern!r} matches no layer with a weight of the {type(model).__name__}")
        for module in found:
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)
