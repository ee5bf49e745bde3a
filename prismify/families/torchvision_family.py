"""torchvision: `torchvision:name`."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn

from ..errors import SourceError
from .names import unknown_name


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """`torchvision.models.get_model(name, **arguments)`.

    Raises:
        SourceError: torchvision knows no such model.
    """
    if name.lower() not in torchvision.models.list_models():
        raise SourceError(unknown_name(name, "torchvision", torchvision.models.list_models()))
    model: nn.Module = torchvision.models.get_model(name, **arguments)
    return model


def version() -> str:
    """The installed version."""
    return str(torchvision.__version__)
