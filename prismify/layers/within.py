"""An operator inside a convolution's own class: for classes whose forward prepares an input and calls `super()`.

Video models pad in time, keep frames or split large inputs in such a forward (Wan, CogVideoX). It stays as it is:
only the convolution that it calls is another.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_PLAIN = (int, float, str, bool, type(None))
#: What a convolution of torch's holds by itself.
_OWN = {"_reversed_padding_repeated_twice"}


class WithinConvolution:
    """Mixed into a convolution's class: `operator` computes what its weight did."""

    operator: nn.Module
    _original: type[nn.Module]

    def _conv_forward(self, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return cast(Tensor, self.operator(input))

    @property
    def weight(self) -> Any:
        """The operator's."""
        return getattr(self.operator, "weight", None)

    @property
    def bias(self) -> Any:
        """The operator's."""
        return getattr(self.operator, "bias", None)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made on the spot, so that pickle and copy must make it again, and fill it there: the restricted
        # reader fills only what is of a class that it knows by name.
        return made_within, (self._original, self.__dict__)


def within(layer: nn.Module, operator: nn.Module) -> nn.Module:
    """A module that runs the forward of `layer`, a convolution of a class of its own, around `operator`."""
    module = made_within(type(layer))
    nn.Module.__init__(module)
    for name, value in layer.__dict__.items():
        if name not in module.__dict__:
            module.__dict__[name] = value
    module.operator = operator
    return module.train(layer.training)


def can_stay_around(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a subclass of a convolution only prepares the input: its forwards call `super()` and read no weight."""
    kind = type(layer)
    own = [cls for cls in kind.__mro__[: kind.__mro__.index(base)] if "forward" in cls.__dict__]
    names = [_names(cls.__dict__["forward"]) for cls in own]
    if "forward" in layer.__dict__ or kind._conv_forward is not base._conv_forward:  # type: ignore[attr-defined]
        return False
    if any({"weight", "bias"} & used or not {"super", "forward"} <= used for used in names):
        return False
    held = {k: v for k, v in layer.__dict__.items() if k not in nn.Module().__dict__ and k not in _OWN}
    return all(_is_plain(value) for value in held.values())


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(_is_plain(v) for v in value))


def _names(function: Any) -> set[str]:
    """Every name that a function's code, and functions within it, read."""
    found: set[str] = set()
    waiting = [getattr(function, "__code__", None)]
    while waiting:
        code = waiting.pop()
        if isinstance(code, types.CodeType):
            found |= {*code.co_names, *(c for c in code.co_consts if isinstance(c, str) and c in ("weight", "bias"))}
            waiting += list(code.co_consts)
    return found


@cache
def _class(kind: Any) -> type[nn.Module]:
    return type(kind.__name__, (WithinConvolution, kind), {"__module__": kind.__module__, "_original": kind})


def made_within(kind: Any, content: dict[str, Any] | None = None) -> nn.Module:
    """A convolution's class around another operator, holding `content`. Pickles name this function: it stays here.

    Raises:
        ValueError: `kind` is no class of a convolution.
    """
    if not isinstance(kind, type) or not issubclass(kind, _ConvNd):
        raise ValueError(f"{kind!r} is no class of a convolution")
    made = _class(cast(Any, kind))
    module: nn.Module = made.__new__(made)
    module.__dict__.update(content or {})
    return module
