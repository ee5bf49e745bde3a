"""Build a model without memory for its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..formats import loose_buffers


def build_empty(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` returns, its parameters on `meta`; with real ones where building needs their values."""
    try:
        with empty_parameters():
            model = make()
    except Exception:
        return make()
    return make() if _derived(model) else model


def shapes_only(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` returns, for its shapes: everything on `meta`, or at least the parameters.

    Some models ask for values while they are built (`.item()` on a schedule), which `meta` has not.
    """
    try:
        with torch.device("meta"), empty_parameters():
            return make()
    except Exception:
        return build_empty(make)


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Modules made inside get parameters on `meta`; buffers and plain tensors stay real.

    `torch.device("meta")` would put those on `meta` too, and no state dict brings them back. Accelerate's
    `init_empty_weights` makes a new parameter at every assignment, which unties tied weights.
    """
    register = nn.Module.register_parameter
    made = WeakIdKeyDictionary()  # real -> empty, so that one given to two modules stays one

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta" and type(param) is nn.Parameter:
            if param not in made:
                made[param] = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
            param = made[param]
        register(self, name, param)

    nn.Module.register_parameter = cast(Any, register_empty)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _derived(model: nn.Module) -> bool:
    """Whether a tensor that no state dict brings back was computed from an empty parameter."""
    if any(buffer.is_meta for buffer in loose_buffers(model).values()):
        return True
    return any(_on_meta(value) for module in model.modules() for value in vars(module).values())


def _on_meta(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(v, Tensor) and v.is_meta and not isinstance(v, nn.Parameter) for v in value)
    return isinstance(value, Tensor) and value.is_meta and not isinstance(value, nn.Parameter)
