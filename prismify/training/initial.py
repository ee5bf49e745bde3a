"""What a model's weights start from, where a recipe wants them otherwise than they were made."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn

from ..errors import RecipeError
from ..layers import PrismConv, Sum
from ..layers.spectrum import InPlace, last_weight


@torch.no_grad()
def start_at_zero(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Set the weights and biases of layers to zero; in place.

    A residual branch whose last layer starts at zero starts as nothing, so that what goes around it goes on unchanged.

    Args:
        patterns: over qualified names (`*` and `?`), such as "*.conv2".

    Raises:
        RecipeError: a pattern matches no layer that has a weight.
    """
    modules = list(model.named_modules())
    for pattern in patterns:
        found = [_what_zeroes(module) for name, module in modules if fnmatchcase(name, pattern)]
        if not any(found):
            raise RecipeError(f"model.zero: {pattern!r} matches no layer with a weight of the {type(model).__name__}")
        for parameters in found:
            for parameter in parameters:
                nn.init.zeros_(parameter)


def _what_zeroes(module: nn.Module) -> list[nn.Parameter]:
    """The parameters by which a layer's output becomes zero and can learn to be something else."""
    wanted: list[nn.Parameter | None]
    if isinstance(module, PrismConv) and module.form == "composition":
        wanted = [module.channel_weight, module.bias]  # of two zero factors, neither would have a gradient
    elif isinstance(module, PrismConv):
        wanted = [module.spatial_weight, module.channel_weight, module.bias]
    elif isinstance(module, InPlace):
        return _last(module)
    else:
        # By attribute, since a convolution with a forward of its own holds its weight in an operator within.
        wanted = [getattr(module, name, None) for name in ("weight", "bias")]
        wanted = wanted if isinstance(wanted[0], nn.Parameter) else []
    return [parameter for parameter in wanted if isinstance(parameter, nn.Parameter)]


def _last(operator: nn.Module) -> list[nn.Parameter]:
    """Of an operator of several factors, the last ones and the biases: what stands before them then has no part."""
    parts = list(operator.parts) if isinstance(operator, Sum) else [operator]
    weights = [last_weight(part) for part in parts]
    biases = [p for name, p in operator.named_parameters() if name.endswith("bias")]
    return [p for p in (*weights, *biases) if isinstance(p, nn.Parameter)]
