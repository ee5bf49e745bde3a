"""Models that come with prismify, by their names."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from .manifest import MANIFEST_NAME


def shipped_models() -> dict[str, Path]:
    """The trained models that come with prismify: name -> folder."""
    root = Path(str(files("prismify.pretrained")))
    return {p.name: p for p in sorted(root.iterdir()) if (p / MANIFEST_NAME).is_file()}


def folder_of(source: str | Path) -> Path:
    """The folder a person means: a path that exists, else a model that comes with prismify, by its name."""
    path = Path(source)
    return path if path.exists() else shipped_models().get(str(source), path)
