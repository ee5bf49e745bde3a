"""What a model's config, signature and first layers say about its inputs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


class Hints:
    """Read-only view of one model; `prismify.families.inputs.Hints` is the part of it that rules see."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = getattr(model, "config", None)
        self.convolutions = [
            m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd) and m.weight is not None
        ]

    def get(self, *keys: str) -> Any:
        """The first of `keys` that the config, or the model itself, has set; the first item of a list."""
        for key in keys:
            value = self._value(key)
            if isinstance(value, (list, tuple)):
                value = value[0] if value else None
            if value is not None:
                return value
        return None

    def list(self, key: str) -> list[int]:
        """A config field that is a list of numbers; empty where there is none."""
        value = self._value(key)
        return [v for v in value if isinstance(v, int)] if isinstance(value, (list, tuple)) else []

    def number(self, *keys: str) -> int | None:
        """`get`, where that is a positive integer."""
        value = self.get(*keys)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def size(self, largest: int = 64) -> int:
        """Height and width of the model's pictures, at most `largest`."""
        return min(self.number("sample_size", "image_size", "img_size") or 32, largest)

    def noise(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same every time."""
        return noise(*shape)

    def takes(self, argument: str) -> bool:
        """Whether the model's forward has this argument."""
        return argument in dict(parameters_of(self.model.forward))

    def _value(self, key: str) -> Any:
        value = self.config.get(key) if hasattr(self.config, "get") else getattr(self.config, key, None)
        if value is None:
            value = getattr(self.model, key, None)
        return None if isinstance(value, (nn.Module, Tensor)) or callable(value) else value


def parameters_of(function: Any) -> list[tuple[str, inspect.Parameter]]:
    """The named parameters of a method, without `*args` and `**kwargs`."""
    # `inspect.signature` follows decorators' __wrapped__, which `__code__` does not.
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        parameters = inspect.signature(lambda x: x).parameters
    return [(n, p) for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def noise(*shape: int) -> Tensor:
    """Standard normal numbers, the same every time, without touching the global random state."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
