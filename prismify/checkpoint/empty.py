"""Build a model without memory for its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Modules made inside get parameters on `meta`; buffers and plain tensors stay real.

    `torch.device("meta")` would put those on `meta` too, and no state dict brings them back. Accelerate's
    `init_empty_weights` makes a new parameter at every assignment, which unties tied weights.
    """
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta" and type(parameter) is nn.Parameter:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = cast(Any, register_empty)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def shapes_only(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` builds, for its shapes: everything on `meta`, or at least the parameters.

    Some models ask for values while they are built (`.item()` on a schedule), which `meta` has not.
    """
    try:
        with torch.device("meta"), empty_parameters():
            return make()
    except Exception:
        with empty_parameters():
            return make()
