"""A start for a converted model: of every replaced layer the weights nearest to the original's, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...errors import ShapeError
from ...layers.spectrum import fit, watched
from ..losses.teaching import replaced_layers


def start_from(teacher: nn.Module, student: nn.Module, run_teacher: Callable[[], Any], positions: int) -> list[str]:
    """Fit every replaced layer of the student to the teacher's on the teacher's own inputs, in place.

    Args:
        run_teacher: runs the teacher on images.
        positions: of each call of a layer that are looked at, at most.

    Returns:
        the layers that were fitted; the others, for which there is no closed form, keep their weights.
    """
    fittable = {}
    for name in replaced_layers(student):
        layer = teacher.get_submodule(name)
        try:
            with watched({name: layer}, positions):
                pass
        except ShapeError:
            continue
        fittable[name] = layer
    fitted = []
    with torch.no_grad(), watched(fittable, positions) as moments:
        run_teacher()
    for name, seen in moments.items():
        if seen.count == 0:
            continue
        operator: Any = student.get_submodule(name)
        try:
            fit(getattr(operator, "operator", operator), seen)
        except ShapeError:
            continue
        fitted.append(name)
    return fitted
