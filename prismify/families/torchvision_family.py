"""torchvision: `torchvision:name`."""

from __future__ import annotations

import inspect
from typing import Any

import torchvision
from torch import nn

from ..errors import SourceError
from .names import unknown_name


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """`torchvision.models.get_model(name, **arguments)`; nothing is downloaded that was not asked for.

    Raises:
        SourceError: torchvision knows no such model.
    """
    if name.lower() not in torchvision.models.list_models():
        raise SourceError(unknown_name(name, "torchvision", torchvision.models.list_models()))
    builder = torchvision.models.get_model_builder(name)
    if "weights_backbone" in inspect.signature(builder).parameters:
        arguments = {"weights_backbone": None, **arguments}  # detection models ask for trained ones by default
    model: nn.Module = builder(**arguments)
    return model


def version() -> str:
    """The installed version."""
    return str(torchvision.__version__)
