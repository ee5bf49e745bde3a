"""What a block is: the smallest part of a model that says itself what it does with the layers that were replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .lessons import Pass, outputs_of

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


def alike(
    blocks: Sequence[str], teacher: nn.Module, student: nn.Module, run_teacher: Pass, run_student: Pass
) -> list[str]:
    """The blocks that return tensors of the same shapes in both models, whose channels may have become fewer."""
    with torch.no_grad():
        with outputs_of(teacher, blocks) as wanted:
            run_teacher()
        with outputs_of(student, blocks) as said:
            run_student()
    return [name for name in blocks if _shapes(wanted[name]) == _shapes(said[name])]


def _shapes(outputs: Any) -> list[torch.Size]:
    return [value.shape for value in tree_leaves(outputs) if isinstance(value, Tensor)]


def _block_around(model: nn.Module, name: str) -> str:
    parent = name
    while parent := parent.rpartition(".")[0]:
        if type(model.get_submodule(parent)).forward not in _PLAIN_FORWARDS:
            return parent
    return name
