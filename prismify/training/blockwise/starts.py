"""A start for replaced layers: the weights nearest to the original's, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...errors import ShapeError
from ...layers.spectrum import Moments, fit, watched
from ...layers.spectrum.narrowing import narrow_rows, start_narrow
from ...plan import Decision
from ..losses.teaching import replaced_layers, replaced_rows


def start_from(teacher: nn.Module, student: nn.Module, run_teacher: Callable[[], Any], positions: int) -> list[str]:
    """Fit every replaced layer of the student to the teacher's on the teacher's own inputs, in place.

    Args:
        run_teacher: runs the teacher on images.
        positions: of each call of a layer that are looked at, at most.

    Returns:
        the layers that were fitted; the others, for which there is no closed form, keep their weights.
    """
    names = replaced_layers(student)
    moments = moments_of(teacher, names, run_teacher, positions)
    narrowed = start_narrowed(replaced_rows(student), teacher, student, moments)
    return narrowed + [name for name, seen in moments.items() if fits(student.get_submodule(name), seen)]


def start_narrowed(
    rows: Iterable[Decision],
    teacher: nn.Module,
    student: nn.Module,
    moments: Mapping[str, Moments],
    within: str = "",
    orders: Mapping[str, Sequence[int]] | None = None,
) -> list[str]:
    """Start layers and norms that a plan narrows, in place; returns their names.

    Args:
        within: the teacher's block that `student` takes the place of; the whole model by default.
        orders: of each width its channels in the order in which they are kept; by default that is found here.
    """
    own = narrow_rows((row.name, row.operator) for row in rows)
    places = {name: student.get_submodule(name[len(within) :].lstrip(".")) for name in own}
    start_narrow(own, teacher, places, moments, orders)
    return list(own)


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
