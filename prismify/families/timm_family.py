"""timm: `timm:name`."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from ..errors import SourceError
from .names import unknown_name


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """`timm.create_model(name, **arguments)`.

    Raises:
        SourceError: timm knows no such model. Names that point at a hub are not taken.
    """
    if not timm.is_model(name):
        raise SourceError(unknown_name(name, "timm", timm.list_models()))
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def version() -> str:
    """The installed version."""
    return str(timm.__version__)
