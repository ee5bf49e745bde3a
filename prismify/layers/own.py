"""Operators that a plan names by their class and describes by options: prismify's, and people's once registered."""

from __future__ import annotations

import sys
from typing import Any, Literal, TypeVar, get_args

from torch import nn

from ..errors import PrismifyError, ShapeError, one_line

C = TypeVar("C", bound=type[nn.Module])
#: Prismify's own.
OperatorType = Literal["DeepPrism", "Prism", "PrismConv", "PrismMultihead"]
#: Name in a plan -> the class that somebody registered. prismify itself puts nothing here.
_OWN: dict[str, type[nn.Module]] = {}
#: Name in a plan -> the class that comes with prismify.
_SHIPPED: dict[str, type[nn.Module]] = {}


def shipped_operator(operator: C) -> C:
    """Let plans name a class of prismify's by its name; a decorator. See `register_operator`."""
    _SHIPPED[operator.__name__] = operator
    return operator


def register_operator(operator: C, name: str | None = None) -> C:
    """Let plans name a class of one's own, in this process; also a decorator.

    A folder that holds such an operator loads only where its class is registered again: import the module that does it.

    Args:
        operator: an `nn.Module` with a class method `from_layer(layer, **options)`, which makes what takes the place
            of a convolution or a linear layer: its parameters are new, its geometry is the layer's. It must take
            `layer` on the meta device too.
        name: what plans call it; the class's own name by default.

    Returns:
        `operator`.

    Raises:
        ShapeError: it has no `from_layer`, or the name is another operator's.
    """
    if not (isinstance(operator, type) and issubclass(operator, nn.Module)):
        raise ShapeError(f"{operator!r:.60} is no class of nn.Module")
    name = name or operator.__name__
    if name in (*get_args(OperatorType), *_SHIPPED):
        raise ShapeError(f"operator {name!r} is one of prismify's own: give register_operator another name")
    if not callable(getattr(operator, "from_layer", None)):
        raise ShapeError(f"{class_of(operator)} has no class method from_layer(layer, **options)")
    other = _OWN.get(name)
    if other is not None and _origin(other) != _origin(operator):  # a module that is imported anew registers again
        raise ShapeError(f"operator {name!r} is {class_of(other)} already: give register_operator another name")
    _OWN[name] = operator
    return operator


def own_operators() -> dict[str, type[nn.Module]]:
    """What is registered: name -> class."""
    return dict(_OWN)


def described_operators() -> dict[str, type[nn.Module]]:
    """What a plan describes by options, prismify's and what is registered: name -> class."""
    return {**_SHIPPED, **_OWN}


def build_own(name: str, options: dict[str, Any], layer: nn.Module) -> nn.Module:
    """An operator that is described by options in the place of a layer, with the layer's device, dtype and mode.

    Raises:
        ShapeError: it cannot take the place of such a layer.
    """
    if isinstance(layer, nn.MultiheadAttention):
        raise ShapeError(f"{name} takes the place of convolutions and linear layers, not of a packed attention")
    weight: Any = layer._parameters.get("weight")
    try:
        made = described_operators()[name].from_layer(layer, **options)  # type: ignore[attr-defined]
    except PrismifyError:
        raise
    except Exception as error:  # whatever somebody's class raises
        raise ShapeError(f"{name} cannot take the place of a {type(layer).__name__}: {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise ShapeError(f"{name}.from_layer returned a {type(made).__name__}, not an nn.Module")
    if any(parameter is own for parameter in made.parameters() for own in layer.parameters()):
        raise ShapeError(
            f"{name}.from_layer returned the layer's own weight in its operator: clone it, or make new parameters"
        )
    if weight is None:  # a norm that learns nothing
        return made.train(layer.training)
    return made.to(device=weight.device, dtype=weight.dtype).train(layer.training)


def class_of(operator: type) -> str:
    """`package.module.Class`."""
    return f"{operator.__module__}.{operator.__qualname__}"


def _origin(operator: type) -> tuple[Any, str]:
    """The file and the name of a class: the same for a module that was imported twice."""
    module = sys.modules.get(operator.__module__)
    return getattr(module, "__file__", None) or operator.__module__, operator.__qualname__
