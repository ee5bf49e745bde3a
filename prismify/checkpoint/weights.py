"""State dicts: read them from files, fit them to models, write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import SourceError
from .pickles import read_pickle

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".th")
SUFFIXES = (".safetensors", *PICKLES)
_INDEX = ".index.json"
#: Where training scripts put the state dict among other things, in the order of preference.
_NESTED = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module", "ema")
_WRAPPERS = ("module.", "_orig_mod.")


def read_weights(path: Path, *, allow: Iterable[str] = (), trust: bool = False) -> dict[str, Tensor] | nn.Module:
    """The state dict in a file, or the whole module where one was pickled.

    Raises:
        SourceError: the file is missing, damaged, or holds neither.
        UnsafePickleError: see `read_pickle`.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if path.name.endswith(_INDEX):
        return _read_shards(path, allow=allow, trust=trust)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLES:
        raise SourceError(f"{path}: weights end in {', '.join(SUFFIXES)}")
    content = read_pickle(path, allow=allow, trust=trust)
    return content if isinstance(content, nn.Module) else _state_dict(content, path)


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Give `model` (real or on `meta`) the tensors of `state`: every key, every shape, the file's dtypes.

    Tied weights stay tied, and may be missing from `state` under all names but one.

    Raises:
        SourceError: keys or shapes differ; the first three are named with both shapes.
    """
    tied = _aliases(model)
    state = dict(state)
    for names in tied:
        present = [name for name in names if name in state]
        state |= {name: state[present[0]] for name in names if present and name not in state}
    expected = {k: v for k, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    _compare(expected, state, where)
    model.load_state_dict(state, strict=False, assign=True)
    for names in tied:
        _tie(model, names)


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with each tied tensor once and no two tensors sharing memory, ready for safetensors."""
    drop = {name for names in _aliases(model) for name in names[1:]}
    state: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or name in drop:
            continue
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()
        memory.add(tensor.untyped_storage().data_ptr())
        state[name] = tensor
    return state


def write_safetensors(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict; OSError where the disk does not take it."""
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{error}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(path: Path) -> list[Path]:
    """The files a weights path stands for: itself, or the shards of an index and the index.

    Raises:
        SourceError: the index is not one, or points outside its folder.
    """
    if not path.name.endswith(_INDEX):
        return [path]
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise SourceError(f"{path} is not an index of shards") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise SourceError(f"{path} names a shard outside its folder: {shard!r}")
    return [path, *(path.parent / shard for shard in shards)]


def _read_shards(path: Path, *, allow: Iterable[str], trust: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for shard in weight_files(path)[1:]:
        part = read_weights(shard, allow=allow, trust=trust)
        if isinstance(part, nn.Module):
            raise SourceError(f"{shard} holds a module, not a shard of weights")
        state |= part
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise SourceError(f"{path} is truncated or not a safetensors file ({' '.join(str(error).split())})") from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise SourceError(f"{path} holds a {type(content).__name__}, neither a state dict nor a module")
    nested: Any = content
    if not _holds_tensors(nested):
        nested = next((content[k] for k in _NESTED if k in content and _holds_tensors(content[k])), None)
        if nested is None:
            keys = ", ".join(str(k) for k in list(content)[:5])
            raise SourceError(f"{path} holds no state dict; its keys are {keys or 'none'}")
    state = {str(k): v for k, v in nested.items() if isinstance(v, Tensor)}
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    problems = []
    for name in dict.fromkeys([*expected, *state]):
        if name not in state:
            problems.append(f"{name} is missing (the model has {_shape(expected[name])})")
        elif name not in expected:
            problems.append(f"{name} {_shape(state[name])} is not in the model")
        elif state[name].shape != expected[name].shape:
            problems.append(f"{name} is {_shape(state[name])}, in the model {_shape(expected[name])}")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise SourceError(f"{where} does not fit the model: " + "; ".join(problems[:3]) + more)


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def _aliases(model: nn.Module) -> list[list[str]]:
    """Groups of names that are one parameter or buffer."""
    groups: dict[int, list[str]] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _tie(model: nn.Module, names: list[str]) -> None:
    def slot(name: str) -> tuple[dict[str, Any], str]:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        return (module._parameters if leaf in module._parameters else module._buffers), leaf

    slots, leaf = slot(names[0])
    first = slots[leaf]
    for name in names[1:]:
        slots, leaf = slot(name)
        slots[leaf] = first


def meta_names(model: nn.Module) -> list[str]:
    """Names of parameters and buffers that still have no memory."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in named if tensor.device == torch.device("meta")]
