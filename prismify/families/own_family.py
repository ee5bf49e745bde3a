"""prismify's own networks: `prismify:Name`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import SourceError
from ..networks import NETWORKS
from ..version import __version__
from .names import unknown_name


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The network of that name, with fresh weights.

    Raises:
        SourceError: there is none.
    """
    if name not in NETWORKS:
        raise SourceError(unknown_name(name, "prismify", list(NETWORKS)))
    return NETWORKS[name](**arguments)


def version() -> str:
    """This version."""
    return __version__
