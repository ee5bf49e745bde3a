"""Model libraries, prismify's own networks too: the only files that import diffusers, timm and torchvision."""

from __future__ import annotations

import importlib
from types import ModuleType

#: prefix of a model reference -> the file that builds from it (`build`) and names its version (`version`).
FAMILIES = {
    "diffusers": "diffusers_family",
    "timm": "timm_family",
    "torchvision": "torchvision_family",
    "prismify": "own_family",
}


def family(prefix: str) -> ModuleType:
    """The family's module, imported on first use.

    Raises:
        KeyError: there is no such family.
    """
    return importlib.import_module(f".{FAMILIES[prefix]}", __name__)


def schedulers() -> ModuleType:
    """The file that makes diffusers' schedulers, imported on first use."""
    return importlib.import_module("prismify.families.diffusers_schedulers")


def text_encoders() -> ModuleType:
    """The file that opens transformers' text encoders, imported on first use."""
    return importlib.import_module("prismify.families.text_encoders")
