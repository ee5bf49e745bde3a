"""Weights files: safetensors, pickles, and indexes of shards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import SourceError
from .manifest import read_json
from .pickles import read_pickle

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".th")
SUFFIXES = (".safetensors", *PICKLES)
#: `model.safetensors.index.json`, or `model.safetensors.index.fp16.json` for a variant.
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
#: Where training scripts put the state dict or the model among other things, in the order of preference.
_NESTED = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module", "ema")


def read_weights(
    path: Path, *, allow: Iterable[str] = (), trust: bool = False, shapes: bool = False
) -> dict[str, Tensor] | nn.Module:
    """The state dict in a file, or the whole module where one was pickled.

    Args:
        allow, trust: see `read_pickle`.
        shapes: the tensors on `meta`: their values are not read.

    Raises:
        SourceError: the file is missing, damaged, or holds neither.
        UnsafePickleError: see `read_pickle`.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if _INDEX.search(path.name):
        return _read_shards(path, allow=tuple(allow), trust=trust, shapes=shapes)
    if path.suffix == ".safetensors":
        content: dict[str, Tensor] | nn.Module = _read_safetensors(path, shapes)
    elif path.suffix in PICKLES:
        content = _model_or_state(read_pickle(path, allow=allow, trust=trust, mmap=shapes), path)
    else:
        raise SourceError(f"{path}: weights end in {', '.join(SUFFIXES)}")
    if shapes and not isinstance(content, nn.Module):
        return {name: tensor.to("meta") for name, tensor in content.items()}
    return content


def read_state(
    path: Path, *, allow: Iterable[str] = (), trust: bool = False, shapes: bool = False
) -> dict[str, Tensor]:
    """`read_weights`, of a file that holds a state dict.

    Raises:
        SourceError: also for a whole module.
    """
    content = read_weights(path, allow=allow, trust=trust, shapes=shapes)
    if isinstance(content, nn.Module):
        raise SourceError(f"{path} holds a whole {type(content).__name__}, where a state dict is wanted")
    return content


def write_safetensors(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict.

    Raises:
        OSError: the disk does not take it.
        SourceError: safetensors has no form for one of the tensors.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(state, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only their owner reads, whatever the umask
    except SafetensorError as error:
        raise OSError(f"{error}") from error
    except (KeyError, ValueError, RuntimeError) as error:
        raise SourceError(f"the weights cannot be written as safetensors: {' '.join(str(error).split())}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(path: Path) -> list[Path]:
    """The files a weights path stands for: itself, or an index and its shards.

    Raises:
        SourceError: the index is not one, or points outside its folder.
    """
    if not _INDEX.search(path.name):
        return [path]
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise SourceError(f"{path} is not an index of shards: it has no weight_map")
    for shard in names.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(SUFFIXES):
            raise SourceError(f"{path} names a shard outside its folder, or no weights: {shard!r}")
    return [path, *(path.parent / shard for shard in sorted(set(names.values())))]


def _read_shards(path: Path, *, allow: tuple[str, ...], trust: bool, shapes: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for shard in weight_files(path)[1:]:
        state |= read_state(shard, allow=allow, trust=trust, shapes=shapes)
    return state


def _read_safetensors(path: Path, shapes: bool) -> dict[str, Tensor]:
    try:
        mapped = load_file(path)
        # In the mapped file tensors begin anywhere. Kernels choose by alignment, and round differently then;
        # and a map breaks when somebody shortens the file.
        return mapped if shapes else {name: tensor.clone() for name, tensor in mapped.items()}
    except Exception as error:
        raise SourceError(f"{path} is truncated or not a safetensors file ({' '.join(str(error).split())})") from error


def _model_or_state(content: Any, path: Path) -> dict[str, Tensor] | nn.Module:
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, Mapping):
        raise SourceError(f"{path} holds a {type(content).__name__}, neither a state dict nor a module")
    for value in (*(content.get(key) for key in _NESTED), content):
        if isinstance(value, nn.Module):
            return value
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()):
            return {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    keys = ", ".join(str(key) for key in list(content)[:5])
    raise SourceError(f"{path} holds no state dict; its keys are {keys or 'none'}")
