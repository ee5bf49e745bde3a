"""What several processes do together, or leave for later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def unsynchronised(accelerator: Any, modules: tuple[nn.Module, ...]) -> Iterator[None]:
    """Gradients of modules are only added up inside, and not averaged over the processes."""
    if not modules:
        yield
        return
    with accelerator.no_sync(modules[0]), unsynchronised(accelerator, modules[1:]):
        yield
