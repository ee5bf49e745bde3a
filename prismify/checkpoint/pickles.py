"""Read what `torch.save` wrote, without running code that the file brings along."""

from __future__ import annotations

import functools
import importlib
import pickle
import zipfile
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ..errors import SourceError, UnsafePickleError

_TRUSTED_ROOTS = ("torch.nn.", "torchvision.", "timm.", "diffusers.", "prismify.layers.")
#: What modules of those libraries hold besides modules. Each only makes an object or is a pure function.
_HELPERS = {
    "functools.partial": functools.partial,
    "torch.nn.functional.relu": nn.functional.relu,
    "torch.nn.functional.gelu": nn.functional.gelu,
    "torch.nn.functional.silu": nn.functional.silu,
}
_HELPER_CLASSES = ("diffusers.configuration_utils.FrozenDict", "diffusers.models.attention_processor.")


def read_pickle(path: Path, *, allow: Iterable[str] = (), trust: bool = False) -> Any:
    """The object in a `.pt`, `.pth`, `.ckpt` or `.bin` file, read with `weights_only=True`.

    Modules of torch, torchvision, timm and diffusers are allow-listed for this one read.

    Args:
        allow: further classes, `package.Class`, that may be made. Their packages are imported.
        trust: read with `weights_only=False`: the file may run any code.

    Raises:
        UnsafePickleError: the file needs classes that are not allowed; nothing of it was run.
        SourceError: it is not such a file, or damaged.
    """
    if _is_torchscript(path):
        raise SourceError(
            f"{path} is a TorchScript file, which holds no Python module: save the model's state_dict() "
            "instead and name its architecture with --model"
        )
    if trust:
        return _load(path, weights_only=False)
    wanted = _unsafe_globals(path)
    allowed = [(found, name) for name in wanted if (found := _resolve(name, set(allow))) is not None]
    refused = sorted(set(wanted) - {name for _, name in allowed})
    if refused:
        shown = ", ".join(refused[:3]) + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")
        flags = " ".join(f"--allow {name}" for name in refused[:3])
        raise UnsafePickleError(
            f"{path} holds {shown}, which could run code; nothing was run. Allow it with {flags}, "
            "or trust the whole file with --trust-pickle"
        )
    with safe_globals(allowed):  # type: ignore[arg-type]
        return _load(path, weights_only=True)


def _unsafe_globals(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []  # the format before torch 1.6: `weights_only` alone judges it
    try:
        return list(get_unsafe_globals_in_checkpoint(str(path)))
    except (ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise SourceError(f"{path} is damaged or not a torch checkpoint ({_short(error)})") from error


def _resolve(name: str, allow: set[str]) -> Any:
    """The class or function of an allowed name, or None. Only allowed packages are imported."""
    if name in _HELPERS:
        return _HELPERS[name]
    if name not in allow and not name.startswith(_TRUSTED_ROOTS):
        return None
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    if name in allow or name.startswith(_HELPER_CLASSES):
        return found
    return found if isinstance(found, type) and issubclass(found, (nn.Module, Enum)) else None


def _load(path: Path, *, weights_only: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "weights_only" in text.lower() or "unsupported" in text.lower():
            raise UnsafePickleError(
                f"{path} holds objects that could run code; nothing was run. If you trust where it comes "
                "from, read it with --trust-pickle"
            ) from error
        raise SourceError(f"{path} is damaged or not a torch checkpoint ({_short(error)})") from error
    except Exception as error:
        raise SourceError(f"{path} is damaged or not a torch checkpoint ({_short(error)})") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
