"""What a block is: the smallest part of a model that says itself what it does with the layers that were replaced."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

#: Forwards that say nothing of their own: one module after the other, or none at all.
_PLAIN_FORWARDS = (nn.Sequential.forward, nn.Module.forward)


def blocks_of(model: nn.Module, layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Name of a block -> the layers in it, in the model's order.

    A layer's block is the innermost module around it with a `forward` of its own, such as a residual block or an
    attention; a layer that only the model itself holds is its own block.

    Args:
        layers: qualified names, as of the layers that a plan replaces.
    """
    wanted = set(layers)
    found: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        if name in wanted:
            found.setdefault(_block_around(model, name), []).append(name)
    return {block: tuple(names) for block, names in found.items()}


def _block_around(model: nn.Module, name: str) -> str:
    parent = name
    while parent := parent.rpartition(".")[0]:
        if type(model.get_submodule(parent)).forward not in _PLAIN_FORWARDS:
            return parent
    return name
