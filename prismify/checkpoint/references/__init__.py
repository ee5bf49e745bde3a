"""Architectures by name: what a name means, whether it may be followed, and how it is built without memory."""

from .empty import build_empty, shapes_only
from .reference import Reference, parse_reference
from .trust import Trust

__all__ = [
    "Reference",
    "Trust",
    "build_empty",
    "parse_reference",
    "shapes_only",
]
