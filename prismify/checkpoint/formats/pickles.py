"""Read what `torch.save` wrote, without running code that the file brings along."""

from __future__ import annotations

import functools
import importlib
import pickle
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ...errors import SourceError, UnsafePickleError
from ...families import family
from ...layers.within import made_within
from ..imports import current_folder
from ..values import READABLE
from .zips import check_unpacked, is_archive

_TRUSTED_ROOTS = ("torch.nn.", "torchvision.", "timm.", "diffusers.", "prismify.layers.")
_FROZEN_DICT = "diffusers.configuration_utils.FrozenDict"
#: What modules of those libraries hold besides modules. Each only makes an object or is a pure function.
_HELPERS = {
    "functools.partial": functools.partial,
    "torch.nn.functional.relu": nn.functional.relu,
    "torch.nn.functional.gelu": nn.functional.gelu,
    "torch.nn.functional.silu": nn.functional.silu,
    # The reader fills plain dicts only: `freeze_configs` puts the real class back afterwards.
    _FROZEN_DICT: OrderedDict,
    "prismify.layers.within.made_within": made_within,
    **READABLE,
}
#: diffusers keeps attention processors, which are no modules, on its attention layers.
_PROCESSOR = re.compile(r"diffusers\.models\.[\w.]*Processor(2_0)?$")
#: What torch's older weight and spectral norm keep on a layer.
_NORM_HOOK = re.compile(
    r"torch\.nn\.(utils\.(weight_norm\.WeightNorm|spectral_norm\.SpectralNorm\w*)|modules\.module\._WrappedHook)$"
)
#: Python's own classes that hold data and do nothing; training scripts leave them in checkpoints.
_PLAIN = re.compile(
    r"(argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+|collections\.\w+|datetime\.\w+|uuid\.UUID)$"
)
#: Pickle protocol 2 writes the names that Python's own modules had in Python 2.
_PYTHON_2 = {name.partition(".")[0] for name in IMPORT_MAPPING}
_CODE = ("torch.fx.", "torch.jit.", "torch.package.", "torch.hub.")
_BLOCKED_BY_TORCH = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_STAND_INS = "prismify.stand_in"
_FILLED = re.compile(rf"Can only (?P<how>append|SETITEMS?|extend) .*<class '{re.escape(_STAND_INS)}\.(?P<name>.+)'>")
_MOST_CLASSES = 1000
_MODEL = "give the architecture itself: load(..., model=...)"
_WAY_OUT = "save the model's state_dict() instead, and name its architecture with --model"


class Inert:
    """What stands for an object of a class that is not made: it holds nothing and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_pickle(
    path: Path,
    *,
    allow: Iterable[str] = (),
    trust: bool = False,
    mmap: bool = False,
    inert: bool = False,
    skeleton: bool = False,
) -> Any:
    """The object in a `.pt`, `.pth`, `.ckpt` or `.bin` file, read with `weights_only=True`.

    Modules of torch, torchvision, timm and diffusers are allow-listed for this one read.

    Args:
        allow: further classes, `package.Class`, that may be made. Their packages are imported.
        trust: read with `weights_only=False`: the file may run any code.
        mmap: map the file into memory, so that values are read where they are used.
        inert: `Inert` objects, or plain dictionaries, stand for those of other libraries' classes; what no model
            needs (Python's own functions, code) is refused as ever.
        skeleton: the file is part of a folder, which `load` reads: messages name what that takes.

    Raises:
        UnsafePickleError: the file needs classes that are not allowed; nothing of it was run.
        SourceError: it is not such a file, or damaged.
    """
    if is_torchscript(path):
        raise SourceError(f"{path} is a TorchScript file, which holds no Python module: {_WAY_OUT}")
    mmap = mmap and is_archive(path)
    check_unpacked(path)
    if trust:
        with current_folder():
            return _load(path, weights_only=False, mmap=mmap)
    wanted = frozenset(allow)
    allowed = _resolve_all(classes_in(path), wanted, path, inert, skeleton)
    kinds: dict[str, type] = {}
    while True:
        try:
            with safe_globals([(found, name) for name, found in allowed.items()]):
                content = _load(path, weights_only=True, mmap=mmap, skeleton=skeleton)
            break
        except _OtherKindError as error:  # a stand-in's class turns out to be a dictionary's or a list's
            if error.name in kinds or error.name not in allowed:
                raise UnsafePickleError(f"{path} holds {error.name}, which cannot be read as data") from error
            kinds[error.name] = error.kind
            allowed[error.name] = _stand_in(error.name, error.kind)
        except _NotAllowedError as error:  # a file that cannot be listed names one class at a time
            if error.name in allowed or len(allowed) > _MOST_CLASSES:
                raise UnsafePickleError(f"{path} holds {error.name}, which torch blocks; nothing was run") from error
            allowed |= _resolve_all([error.name], wanted, path, inert, skeleton)
    if _FROZEN_DICT in allowed and isinstance(content, nn.Module):
        family("diffusers").freeze_configs(content)
    return content


class _NotAllowedError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _OtherKindError(Exception):
    """A stand-in is filled as a dictionary or a list: its class was derived from one."""

    def __init__(self, name: str, kind: type) -> None:
        super().__init__(name)
        self.name, self.kind = name, kind


def classes_in(path: Path) -> list[str]:
    """The classes and functions a file needs, apart from tensors; [] where only reading it can tell."""
    if not is_archive(path):
        return []  # the format before torch 1.6
    try:
        return list(get_unsafe_globals_in_checkpoint(str(path)))
    except pickle.UnpicklingError:
        return []  # another pickle protocol, which the reader judges
    except Exception as error:
        raise SourceError(f"{path} is damaged or not a torch checkpoint ({_short(error)})") from error


def to_allow(path: Path) -> list[str]:
    """The classes in a file that its reader must be allowed to make."""
    return sorted(name for name in classes_in(path) if _resolve(name, ()) is None)


def _resolve_all(
    names: Collection[str], allow: Collection[str], path: Path, inert: bool, skeleton: bool = False
) -> dict[str, Any]:
    """The classes of those names, all of them trusted or allowed; UnsafePickleError names the others."""
    found = {name: _resolve(name, allow) for name in names}
    if inert:
        found |= {n: _stand_in(n) for n, value in found.items() if value is None and not (_of_python(n) or _code(n))}
    refused = sorted((n for n, value in found.items() if value is None), key=lambda n: (not _of_python(n), n))
    if not refused:
        return found
    shown = ", ".join(refused[:3]) + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")
    told = f"{path} holds {shown}, which could run code; nothing was run."
    if any(_of_python(name) for name in refused):
        raise UnsafePickleError(f"{told} No model needs that: do not trust this file")
    if any(_code(name) for name in refused):
        way = _MODEL if skeleton else f"It holds code, which only --trust-pickle reads; else {_WAY_OUT}"
        raise UnsafePickleError(f"{told} {way}")
    if missing := [name for name in refused if name in allow]:
        module, _, name = missing[0].partition(".")
        where = "Install its package, or start from the folder that holds it"
        if module == "__main__":  # the name of whatever program runs
            where = f"{name} was written in the program that saved the file, and this is another one: "
            where += _MODEL if skeleton else "keep it in a module of its own, and save again from there"
        raise UnsafePickleError(
            f"{path} holds {missing[0]}, which is allowed but cannot be imported here; nothing was run. {where}"
        )
    flags = " ".join(f"--allow {name}" for name in refused)
    if skeleton:
        raise UnsafePickleError(f"{told} Allow it with {flags} (allow={refused[:3]} in Python), or {_MODEL}")
    raise UnsafePickleError(f"{told} Allow it with {flags}, or trust the whole file with --trust-pickle")


def _stand_in(name: str, kind: type = object) -> type:
    """A class of its own for each name, which the reader tells when it is filled as another kind."""
    if kind is dict:
        # The reader fills exact dictionaries only, so the class makes one.
        return type(name, (), {"__module__": _STAND_INS, "__new__": lambda cls, *args, **kwargs: OrderedDict()})
    return type(name, (Inert, list) if kind is list else (Inert,), {"__module__": _STAND_INS})


def _resolve(name: str, allow: Collection[str]) -> Any:
    """The class or function of a trusted or allowed name, or None. Nothing else is imported."""
    if name in _HELPERS:
        return _HELPERS[name]
    if _of_python(name) or _code(name) or not (name in allow or name.startswith(_TRUSTED_ROOTS)):
        return None
    module, _, attribute = name.rpartition(".")
    try:
        # What a person allows may lie where they stand; a library that is not installed is not looked for there.
        with current_folder() if name in allow else nullcontext():
            found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit):
        return None
    if name in allow:
        return found
    # A GraphModule makes code of what it is given.
    if not isinstance(found, type) or issubclass(found, fx.GraphModule):
        return None
    return found if issubclass(found, (nn.Module, Enum)) or _PROCESSOR.match(name) or _NORM_HOOK.match(name) else None


def _of_python(name: str) -> bool:
    """Whether a name is Python's own, of this or an older version, and more than a plain container of data."""
    root = name.partition(".")[0]
    own = "." not in name or root in sys.stdlib_module_names or root in _PYTHON_2
    return own and name not in _HELPERS and not _PLAIN.match(name)


def _code(name: str) -> bool:
    """Whether torch makes code of what it is given under that name, or loads more: its functions do."""
    if not name.startswith("torch.") or name.startswith("torch.nn."):
        return False
    module, _, attribute = name.rpartition(".")
    return name.startswith(_CODE) or not isinstance(getattr(sys.modules.get(module), attribute, None), type)


def _load(path: Path, *, weights_only: bool, mmap: bool, skeleton: bool = False) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and old storage classes
            return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=mmap)
    except pickle.UnpicklingError as error:
        if weights_only and (other := _FILLED.search(str(error))):
            raise _OtherKindError(other["name"], list if "append" in other["how"] else dict) from error
        if not weights_only:
            raise SourceError(f"{path} is damaged or not a torch checkpoint ({_short(error)})") from error
        if named := _BLOCKED_BY_TORCH.search(str(error)):
            raise _NotAllowedError(named[1]) from error
        if "persistent_load of storage" in str(error):
            raise UnsafePickleError(
                f"{path} is a whole module in the format before torch 1.6, which cannot be read without "
                f"running what it holds; nothing was run. If you trust it, add --trust-pickle; else {_WAY_OUT}"
            ) from error
        raise UnsafePickleError(
            f"{path} is damaged, or a pickle that cannot be read without running what it holds "
            f"({_short(error)}); nothing was run. {_MODEL if skeleton else 'If you trust it, add --trust-pickle'}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise SourceError(f"{path} needs a class that is not here: {_short(error)}") from error
    except Exception as error:
        raise SourceError(f"{path} is damaged or not a torch checkpoint ({_short(error)})") from error


def is_torchscript(path: Path) -> bool:
    """Whether a file is one of TorchScript's archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # ValueError: of a name's letters
        return False


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    return text[:120] or type(error).__name__
