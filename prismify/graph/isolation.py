"""Run a model without leaving a trace on it: modes, buffers and attributes come back as they were."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import CaptureError
from ..generators import kept_generators, seed_generators
from . import draws
from .known import remember

_EMPTY = types.CellType()
#: Values that a snapshot does not look into.
_OPAQUE = (Tensor, type, types.ModuleType, types.FunctionType, str, bytes, int, float, logging.Logger)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers.

    Raises:
        CaptureError: it is no module at all.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"give an nn.Module, not {model!r:.60} ({type(model).__name__})")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextmanager
def undisturbed(model: nn.Module, *, training: bool = False, seed: int = 0) -> Iterator[list[Any]]:
    """Evaluation or training mode, no fast paths, no compilation, no chatter; afterwards the model is as it was.

    A model that chooses at random what it runs chooses the same each time it is looked at with one seed. Generators of
    its own go on from where they are for seed 0, and start anew for any other.

    Models cache tensors in attributes, lists and helper objects (rotary tables, video feature maps), and
    register buffers and modules on first use: made under a fake or inference mode these would poison the
    next real call. The values of tensors are `cloned_tensors`' to keep, and the random state's as well.

    Yields:
        the generators of random numbers that the model draws from beside the process's.
    """
    snapshot = Snapshot(model)
    fastpath, quiet = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.CRITICAL)  # the error of a failed attempt is reported once, by whoever asked for it
    try:
        # Not `eval()`: layers that merge weights when the mode changes would really do so.
        for module in model.modules():
            module.training = training
        with torch.compiler.set_stance("force_eager"), warnings.catch_warnings(), kept_generators():
            warnings.simplefilter("ignore")
            seed_generators(seed)
            for generator in snapshot.generators if seed else ():
                draws.seed(generator, seed)
            with contextlib.redirect_stderr(io.StringIO()):  # torch.export prints the whole graph that it gave up on
                yield snapshot.generators
    finally:
        logging.disable(quiet)
        torch.backends.mha.set_fastpath_enabled(fastpath)
        snapshot.restore()
        _forget_cached(model)


def _forget_cached(model: nn.Module) -> None:
    """Empty the `functools.lru_cache`s of the model's classes and their files: they may hold fake tensors now."""
    for value in _beside(model):
        # A decorator of a library's own may keep the cache among its variables. Only functions are asked: there are
        # objects that answer every name (`torch.classes`, mocks, lazy modules).
        cells = value.__closure__ or () if isinstance(value, types.FunctionType) else ()
        inside = [cell.cell_contents for cell in cells if cell != _EMPTY]
        for cache in (value, *inside):
            if isinstance(cache, functools._lru_cache_wrapper):
                cache.cache_clear()


def _beside(model: nn.Module) -> list[Any]:
    """What the classes of a model's modules hold, and the files that they are written in."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    files = {kind.__module__ for kind in kinds} - {"builtins", "torch.nn.modules.module"}
    holders = [*kinds, *(sys.modules[name] for name in files if name in sys.modules)]
    return [value for holder in holders for value in list(vars(holder).values())]


class Snapshot:
    """What a module tree holds in Python: attributes and, however nested, containers and plain objects.

    Its `generators` are those the model draws random numbers from beside the process's.
    """

    def __init__(self, model: nn.Module) -> None:
        held: list[Any] = [value for value in _beside(model) if isinstance(value, draws.GENERATORS)]
        self._saved: list[tuple[Any, list[Any], list[int]]] = []
        self._slotted: list[tuple[Any, dict[str, Any]]] = []
        seen: set[int] = set()
        waiting: list[Any] = [model]
        while waiting:
            value = waiting.pop()
            if id(value) in seen or isinstance(value, _OPAQUE):
                continue
            seen.add(id(value))
            if isinstance(value, draws.GENERATORS):
                held.append(value)
            elif isinstance(value, dict):
                self._saved.append((value, list(value.items()), _identities(value)))
                waiting.extend(value.values())
            elif isinstance(value, (list, set, deque)):
                self._saved.append((value, list(value), _identities(value)))
                waiting.extend(value)
            elif isinstance(value, tuple):
                waiting.extend(value)
            else:
                if isinstance(attributes := attributes_of(value), dict):
                    waiting.append(attributes)
                if slots := slots_of(value):
                    self._slotted.append((value, slots))
                    waiting.extend(slots.values())
        self.generators = list({id(value): value for value in held}.values())
        self._drawn = [draws.state_of(generator) for generator in self.generators]

    def restore(self) -> None:
        """Put back what has changed, and touch nothing else."""
        for value, slots in self._slotted:
            now = slots_of(value)
            for name in now.keys() - slots.keys():
                object.__delattr__(value, name)
            for name, content in slots.items():
                if now.get(name) is not content:
                    object.__setattr__(value, name, content)  # as a frozen dataclass is written, too
        for generator, state in zip(self.generators, self._drawn, strict=True):
            draws.put_back(generator, state)
        for container, content, identities in self._saved:
            if _identities(container) == identities:
                continue
            if isinstance(container, dict):
                kind = OrderedDict if isinstance(container, OrderedDict) else dict
                kind.clear(container)
                for key, value in content:
                    kind.__setitem__(container, key, value)
            else:
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(content)


def attributes_of(value: Any) -> Any:
    """An object's own `__dict__`, not what its `__getattr__` may make of that name."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None


def slots_of(value: Any) -> dict[str, Any]:
    """What an object holds in the `__slots__` of its class, apart from torch's own classes."""
    found = {}
    for kind in type(value).__mro__:
        if kind.__module__.split(".")[0] in ("builtins", "torch", "numpy") or "__slots__" not in vars(kind):
            continue
        for name, descriptor in vars(kind).items():
            if isinstance(descriptor, types.MemberDescriptorType):
                try:
                    found[name] = descriptor.__get__(value)
                except AttributeError:  # nothing was put there
                    continue
    return found


def _identities(container: Any) -> list[int]:
    items = [x for item in container.items() for x in item] if isinstance(container, dict) else container
    return [id(item) for item in items]


@contextmanager
def cloned_tensors(model: nn.Module) -> Iterator[None]:
    """Run on copies of every parameter and buffer, so that a forward that writes to them writes nowhere."""
    memo: dict[int, Tensor] = {}

    def clone(tensor: Tensor) -> Tensor:
        if id(tensor) not in memo:
            copied = tensor.detach().clone()
            parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if parameter else copied
        return memo[id(tensor)]

    with swapped_tensors(model, clone):
        yield


@contextmanager
def fake_weights(model: nn.Module) -> Iterator[tuple[FakeTensorMode, Callable[[Tensor], Tensor]]]:
    """Swap fake CPU tensors into a real or `meta` module: it runs by shapes alone and allocates nothing.

    Yields the mode to run under, and the function that makes a tensor fake.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in memo:
            with mode:
                made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
                if isinstance(tensor, nn.Parameter):
                    made = nn.Parameter(made, requires_grad=False)
            remember(made, tensor)
            memo[id(tensor)] = (tensor, made)
        return memo[id(tensor)][1]

    with swapped_tensors(model, fake):
        # Plain attributes (tables of positions) have values unless the model was built on meta.
        loose = [(vars(m), n, v) for m in model.modules() for n, v in vars(m).items() if _is_loose_meta(v)]
        try:
            for slots, name, tensor in loose:
                slots[name] = fake(tensor) if isinstance(tensor, Tensor) else type(tensor)(map(fake, tensor))
            yield mode, fake
        finally:
            for slots, name, tensor in loose:
                slots[name] = tensor


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter that has one; the CPU for a model without parameters."""
    return next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


def _is_loose_meta(value: object) -> bool:
    if type(value) in (list, tuple):
        return bool(value) and all(map(_is_loose_meta, value))  # type: ignore[call-overload]
    return isinstance(value, Tensor) and value.is_meta and not isinstance(value, nn.Parameter)


@contextmanager
def swapped_tensors(model: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put `stand_in(tensor)` in the place of every parameter and buffer, and the tensors back afterwards."""
    saved: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for module in model.modules():
            for slots in cast(list[dict[str, Any]], [module._parameters, module._buffers]):
                for name, tensor in list(slots.items()):
                    if tensor is not None:
                        saved.append((slots, name, tensor))
                        slots[name] = stand_in(tensor)
        yield
    finally:
        for slots, name, tensor in saved:
            slots[name] = tensor
