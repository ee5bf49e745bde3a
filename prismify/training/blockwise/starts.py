"""A start for replaced layers: the weights nearest to the original's, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ...errors import ShapeError
from ...layers.spectrum import Moments, fit, watched
from ..losses.teaching import replaced_layers


def start_from(teacher: nn.Module, student: nn.Module, run_teacher: Callable[[], Any], positions: int) -> list[str]:
    """Fit every replaced layer of the student to the teacher's on the teacher's own inputs, in place.

    Args:
        run_teacher: runs the teacher on images.
        positions: of each call of a layer that are looked at, at most.

    Returns:
        the layers that were fitted; the others, for which there is no closed form, keep their weights.
    """
    moments = moments_of(teacher, replaced_layers(student), run_teacher, positions)
    return [name for name, seen in moments.items() if fits(student.get_submodule(name), seen)]


def moments_of(
    model: nn.Module, layers: Iterable[str], run_model: Callable[[], Any], positions: int
) -> dict[str, Moments]:
    """The moments of those layers that a closed form can start from, and that took part in the pass."""
    readable = {}
    for name in layers:
        layer = model.get_submodule(name)
        try:
            Moments.of(layer)
        except ShapeError:
            continue
        readable[name] = layer
    with torch.no_grad(), watched(readable, positions) as moments:
        run_model()
    return {name: seen for name, seen in moments.items() if seen.count}


def fits(operator: nn.Module, moments: Moments) -> bool:
    """Fit what takes a layer's place, in place; False where there is no closed form for it."""
    try:
        fit(getattr(operator, "operator", operator), moments)
    except ShapeError:
        return False
    return True
