"""Inner modules by the names they had before each verb got its room: found under the new ones, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

#: Where modules lie now, and what they were called.
_ROOMS = {
    "facts": ("count", "inventory", "obstacles", "projections", "weight_uses"),
    "plan": ("policies",),
    "scanning": ("report",),
    "rewrite": ("copying", "fusion", "verify"),
    "checkpoint": ("handoff",),
    "checkpoint.formats": tuple(
        f"checkpoint.{name}"
        for name in ("pickles", "program_check", "programs", "tensor_files", "tensors", "weights", "zips")
    ),
    "checkpoint.references": tuple(f"checkpoint.{name}" for name in ("empty", "reference", "trust")),
    "graph.dataflow": tuple(f"graph.{name}" for name in ("attention", "channels", "flow", "roles", "shifts")),
    "graph.inputs": tuple(f"graph.{name}" for name in ("advice", "containers", "example_inputs", "hints")),
    "training.data": tuple(f"training.{name}" for name in ("decoding", "folders", "images", "stream")),
    "training.engine": tuple(
        f"training.{name}"
        for name in ("begin", "ending", "events", "journal", "launch", "opening", "run", "state", "written")
    ),
    "training.losses": tuple(f"training.{name}" for name in ("discriminator", "divergence", "perceptual", "teaching")),
}
MOVED = {
    f"prismify.{old}": f"prismify.{room}.{old.rpartition('.')[2]}" for room, names in _ROOMS.items() for old in names
}


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It ran under its new name, which stays its own: the import system has put the old one's spec on it.
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def find_moved_modules() -> None:
    """Let the old names be imported, behind everything that is there."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
