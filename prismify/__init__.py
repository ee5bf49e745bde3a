"""prismify: scan any generative model, convert it to DeepPrism and PrismAttn, save, load, retrain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .moved import find_moved_modules
from .version import __version__ as __version__

find_moved_modules()

if TYPE_CHECKING:
    from .checkpoint import load, load_pipeline, save
    from .errors import PrismifyError
    from .graph import capture
    from .layers import DeepPrism, Prism, PrismAttn, PrismConv, register_operator
    from .plan import Decision, Plan, Policy
    from .publishing import push_to_hub
    from .rewrite import convert, convert_, fuse, unfuse
    from .scanning import scan

# name -> the module that defines it; loaded on first use (PEP 562), so that `import prismify` is instant.
_PUBLIC = {
    "scan": "scanning",
    "convert": "rewrite",
    "convert_": "rewrite",
    "save": "checkpoint",
    "load": "checkpoint",
    "load_pipeline": "checkpoint",
    "push_to_hub": "publishing",
    "fuse": "rewrite",
    "unfuse": "rewrite",
    "capture": "graph",
    "Plan": "plan",
    "Decision": "plan",
    "Policy": "plan",
    "DeepPrism": "layers",
    "Prism": "layers",
    "PrismAttn": "layers",
    "PrismConv": "layers",
    "register_operator": "layers",
    "PrismifyError": "errors",
}

__all__ = [  # noqa: RUF022 - in the order of use
    "scan",
    "convert",
    "convert_",
    "save",
    "load",
    "load_pipeline",
    "push_to_hub",
    "fuse",
    "unfuse",
    "capture",
    "Plan",
    "Decision",
    "Policy",
    "DeepPrism",
    "Prism",
    "PrismAttn",
    "PrismConv",
    "register_operator",
    "PrismifyError",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prismify' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
