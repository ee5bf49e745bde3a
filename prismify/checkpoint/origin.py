"""A model that can be built, and what is written down about where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from .formats import sha256


@dataclass(frozen=True)
class Source:
    """A model that can be built, and what to write down about where it came from.

    Args:
        label: what the person named.
        origin: plain data for `prismify.json`: kind, path, class.
        make: builds the model; with `empty` no memory is spent on weights where that can be avoided.
        rebuild: plain data from which `load` makes the same structure again; None asks the model itself.
        files: the weights; none where the model starts afresh.
        config: the folder's `config.json`, copied to the output.
        notes: remarks for the report, known once it was built.
        stored: of a model whose weights come in shards, the files' names of its tensors, known once it was
            built empty: it can be converted without them in memory.
    """

    label: str
    origin: dict[str, Any]
    make: Callable[[bool], nn.Module | ExportedProgram] = field(repr=False)
    rebuild: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()
    config: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    stored: dict[str, str] | None = None

    def build(self, *, empty: bool = False) -> nn.Module | ExportedProgram:
        """The model: with its weights, or on `meta` where that can be; a program as it was exported.

        Raises:
            SourceError: it cannot be read, or its weights do not fit.
        """
        built = self.make(empty)
        return built.eval() if isinstance(built, nn.Module) else built

    def described(self) -> dict[str, Any]:
        """The origin with the SHA-256 of every weights file, which reads them whole."""
        hashes = {file.name: sha256(file) for file in self.files}
        return {**self.origin, "sha256": hashes} if hashes else self.origin


@dataclass(frozen=True)
class Pipeline:
    """A diffusers pipeline folder: the parts that are models, and everything else, which stays as it is."""

    label: str
    folder: Path
    parts: dict[str, Source]
    others: tuple[str, ...]
