"""Weights files: safetensors, pickles, and indexes of shards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import SourceError, UnsafePickleError
from ..layouts import averaged
from ..manifest import read_json
from .pickles import Inert, read_pickle
from .tensor_files import stored_tensors
from .zips import MOST_UNPACKED, UNPACKED_SLACK

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".th")
SUFFIXES = (".safetensors", *PICKLES)
#: `model.safetensors.index.json`, or `model.safetensors.index.fp16.json` for a variant.
_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
#: What lies beside models and is none.
_NO_MODEL = re.compile(r"(optim|opt$|opt_|scheduler|scaler|loss)", re.IGNORECASE)
#: Of ema-pytorch, which keeps both: the averaged ones.
_AVERAGED_PART = "ema_model."
_DEEPEST = 4
#: Where training scripts put the averaged weights.
_EMA = ("params_ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "g_ema", "ema")
#: Where they put the state dict or the model among other things, in the order of preference.
_NESTED = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module", "ema")


def read_weights(
    path: Path,
    *,
    allow: Iterable[str] = (),
    trust: bool = False,
    shapes: bool = False,
    ema: bool = False,
    mmap: bool = False,
    prefix: str | None = None,
) -> dict[str, Tensor] | nn.Module:
    """The state dict in a file, or the whole module where one was pickled.

    Args:
        allow, trust: see `read_pickle`.
        shapes: the tensors on `meta`: their values are not read.
        ema: the averaged weights instead of the raw ones.
        mmap: of a pickle, read values where they are used.
        prefix: of the wanted model's names, which may begin with the keys that it lies under.

    Raises:
        SourceError: the file is missing, damaged, or holds neither.
        UnsafePickleError: see `read_pickle`.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if _INDEX.search(path.name):
        content: dict[str, Tensor] | nn.Module = _read_shards(path, allow=tuple(allow), trust=trust, shapes=shapes)
    elif path.suffix == ".safetensors":
        content = _read_safetensors(path, shapes)
    elif path.suffix in PICKLES:
        content, chosen = _read_pickled(path, tuple(allow), trust, shapes or mmap, ema, prefix)
        ema = ema and not chosen
    else:
        raise SourceError(f"{path}: weights end in {', '.join(SUFFIXES)}")
    if ema:
        if isinstance(content, nn.Module):
            raise SourceError(f"{path} holds a whole {type(content).__name__} and no averaged weights: drop --ema")
        content = averaged(content, str(path))
    if shapes and not isinstance(content, nn.Module):
        return {name: tensor.to("meta") for name, tensor in content.items()}
    return content


def read_state(
    path: Path,
    *,
    allow: Iterable[str] = (),
    trust: bool = False,
    shapes: bool = False,
    ema: bool = False,
    mmap: bool = False,
) -> dict[str, Tensor]:
    """`read_weights`, of a file that holds a state dict.

    Args:
        mmap: of a pickle, read values where they are used.

    Raises:
        SourceError: also for a whole module.
    """
    content = read_weights(path, allow=allow, trust=trust, shapes=shapes, ema=ema, mmap=mmap)
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


def shard_of(files: Sequence[Path]) -> Callable[[str], Path]:
    """What says in which of a source's files (see `weight_files`) a tensor lies."""
    if not _INDEX.search(files[0].name):
        return lambda name: files[0]
    weight_map: dict[str, str] = read_json(files[0])["weight_map"]
    return lambda name: files[0].parent / weight_map[name]


def is_index(path: Path) -> bool:
    """Whether a file's name is that of an index of shards."""
    return bool(_INDEX.search(path.name))


def _read_shards(path: Path, *, allow: tuple[str, ...], trust: bool, shapes: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for shard in weight_files(path)[1:]:
        state |= read_state(shard, allow=allow, trust=trust, shapes=shapes)
    return state


def _read_safetensors(path: Path, shapes: bool) -> dict[str, Tensor]:
    stored = stored_tensors(path)
    if shapes:
        return {name: torch.empty(at.shape, dtype=at.dtype, device="meta") for name, at in stored.items()}
    try:
        return {name: at.read() for name, at in stored.items()}
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


def _read_pickled(
    path: Path, allow: tuple[str, ...], trust: bool, mmap: bool, ema: bool, prefix: str | None
) -> tuple[dict[str, Tensor] | nn.Module, bool]:
    """What `_model_or_state` finds, also where a training script left objects of its own beside the state dict.

    Those become inert: none of their classes is imported or run. A model among them is wanted, and is not.
    """
    try:
        content = read_pickle(path, allow=allow, trust=trust, mmap=mmap)
    except UnsafePickleError as refused:
        try:
            content = read_pickle(path, allow=allow, mmap=mmap, inert=True)
            inert = not isinstance(content, Mapping) or any(isinstance(content.get(key), Inert) for key in _NESTED)
            if not inert:
                return _model_or_state(content, path, ema, prefix)
        except SourceError:
            pass
        raise refused
    return _model_or_state(content, path, ema, prefix)


def _check_sizes(tensors: Iterable[object], path: Path) -> None:
    """See that a file's tensors are not a multiple of its size: one number can be seen as any number of them.

    Raises:
        SourceError: they are.
    """
    dense = (t for t in tensors if isinstance(t, Tensor) and t.layout is torch.strided and not t.is_meta)
    declared, size = sum(t.numel() * t.element_size() for t in dense), path.stat().st_size
    if declared > MOST_UNPACKED * size + UNPACKED_SLACK:
        raise SourceError(f"{path} is {size:,} bytes and declares tensors of {declared:,}: it is damaged")


def _model_or_state(
    content: Any, path: Path, ema: bool, prefix: str | None
) -> tuple[dict[str, Tensor] | nn.Module, bool]:
    """The state dict or module among what a file holds, and whether it was found as the averaged one."""
    if isinstance(content, nn.Module):
        _check_sizes([*content.parameters(), *content.buffers()], path)
        return content, False
    if not isinstance(content, Mapping):
        raise SourceError(f"{path} holds a {type(content).__name__}, neither a state dict nor a module")
    if ema and (found := _averaged_in(content)) is not None:
        return found if isinstance(found, nn.Module) else _sized(found, path), True
    nested = _nested_states(content)
    if prefix and not _holds(nested, prefix):
        prefix = None  # under which nothing lies: what there is instead is told with the names
    for value in (*(content.get(key) for key in _NESTED), content):
        if isinstance(value, nn.Module):
            _check_sizes([*value.parameters(), *value.buffers()], path)
            return value, False
        if isinstance(value, Mapping) and (state := _tensors(value)) and _holds(state, prefix):
            return _sized(state, path), False
    if nested:
        return _sized(nested, path), False
    keys = ", ".join(str(key) for key in list(content)[:5])
    raise SourceError(f"{path} holds no state dict; its keys are {keys or 'none'}")


def _sized(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    _check_sizes(state.values(), path)
    return state


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _holds(state: Mapping[str, Tensor], prefix: str | None) -> bool:
    return not prefix or any(name.startswith(prefix) for name in state)


def _averaged_in(content: Mapping[Any, Any], depth: int = 0) -> dict[str, Tensor] | nn.Module | None:
    """The averaged weights, or the averaged model, under a name that such have, at any depth."""
    for key in _EMA:
        value = content.get(key)
        if isinstance(value, nn.Module):
            return value
        if isinstance(value, Mapping):
            state = _tensors(value) or _nested_states(value)
            part = {n.removeprefix(_AVERAGED_PART): t for n, t in state.items() if n.startswith(_AVERAGED_PART)}
            if part or state:
                return part or state
    for key, value in content.items():
        deeper = isinstance(value, Mapping) and depth < _DEEPEST and not _NO_MODEL.search(str(key))
        if deeper and (found := _averaged_in(value, depth + 1)) is not None:
            return found
    return None


def _nested_states(content: Mapping[Any, Any], under: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Every tensor that lies in tables within tables, named by the keys that lead there; optimisers' are left."""
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        name = f"{under}{key}"
        if isinstance(value, Tensor) and depth:
            found[name] = value
        elif isinstance(value, nn.Module):
            found |= {f"{name}.{n}": t for n, t in value.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        elif isinstance(value, Mapping) and depth < _DEEPEST and not _NO_MODEL.search(str(key)):
            found |= _nested_states(value, f"{name}.", depth + 1)
    return found
