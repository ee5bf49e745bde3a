"""Run a model without leaving a trace on it: modes, buffers and attributes come back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no fast paths, no compilation; every module's attributes are restored afterwards.

    Models cache tensors as attributes (rotary tables, video feature maps): made under a fake or inference
    mode they would poison the next real call, so attributes and the lists and dicts they hold are put back.
    """
    saved = [(module, dict(module.__dict__), _containers(module)) for module in model.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with suppress(NotImplementedError):  # an exported program's module has no modes
            model.eval()
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, attributes, containers in saved:
            for container, content in containers:
                container.clear()
                container.update(content) if isinstance(container, dict) else container.extend(content)
            module.__dict__.clear()
            module.__dict__.update(attributes)


@contextmanager
def saved_buffers(model: nn.Module) -> Iterator[None]:
    """Put the values of real buffers, and the random state, back afterwards."""
    values = [(b, b.detach().clone()) for b in model.buffers() if b.device.type != "meta"]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


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
            memo[id(tensor)] = (tensor, made)
        return memo[id(tensor)][1]

    with swapped_tensors(model, fake):
        yield mode, fake


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


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    return [
        (value, value.copy())
        for name, value in module.__dict__.items()
        if type(value) in (list, dict) and name not in ("_parameters", "_buffers", "_modules")
    ]
