"""Write a converted model whose kept weights were never in memory: each goes from its file to the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from ..errors import SourceError
from .formats import Part, part_of, read_state, saved_once, shard_of, stored_tensors, write_parts
from .origin import Source


def draw_new_weights(model: nn.Module) -> None:
    """Give the operators of a model on `meta` memory and first weights; what stays is still to be read."""
    made: dict[int, nn.Parameter] = {}  # layers that shared a weight share the new one
    for module in model.modules():
        own = {name: p for name, p in module._parameters.items() if p is not None and p.is_meta}
        if own and type(module).__module__.startswith("prismify.layers") and hasattr(module, "reset_parameters"):
            for name, parameter in own.items():
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = made.setdefault(id(parameter), nn.Parameter(empty))
            cast(Any, module).reset_parameters()


def write_streamed(model: nn.Module, source: Source, path: Path) -> None:
    """Write the state dict of a model whose kept tensors lie on `meta`, taking those from the source's files.

    Raises:
        SourceError: a kept tensor is in none of the files.
        OSError: the disk does not take it.
    """
    write_parts(_parts(saved_once(model), source), path)


def _parts(state: Mapping[str, Tensor], source: Source) -> Iterator[Part]:
    """New tensors first, then the kept ones, file by file."""
    yield from (part_of(name, tensor) for name, tensor in state.items() if not tensor.is_meta)
    assert source.stored is not None
    places = shard_of(source.files)
    by_file: dict[Path, list[str]] = {}
    for name in (name for name, tensor in state.items() if tensor.is_meta):
        if name not in source.stored:
            raise SourceError(f"{source.label} holds no value for {name}")
        by_file.setdefault(places(source.stored[name]), []).append(name)
    for file, names in by_file.items():
        if file.suffix == ".safetensors":
            stored = stored_tensors(file)
            for name in names:
                at = stored[source.stored[name]]
                yield Part(name, at.dtype, at.shape, at.copy_to)
        else:
            for name in names:
                kept = state[name]
                yield Part(name, kept.dtype, tuple(kept.shape), _Pickled(file, source.stored[name]))


class _Pickled:
    """Writes a tensor of a pickled shard; the file last read is kept, since its tensors follow each other."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def __call__(self, output: BinaryIO) -> None:
        tensor = _opened(self._path)[self._key]
        part_of(self._key, tensor).write(output)


@lru_cache(maxsize=1)
def _opened(path: Path) -> dict[str, Tensor]:
    return read_state(path, mmap=True)
