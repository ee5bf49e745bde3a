"""What fewer channels cost: of every width, the output's error against the channels that are left of it.

To first order, a change d of what a layer makes changes the output by J d. With weights fitted to the channels that are
left, d is what those cannot tell of what the layer made, and the power of J is that of the gradients of random mixtures
of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..graph import Capture
from ..layers.spectrum import Moments
from ..layers.spectrum.selecting import Reading, selected
from ..plan import Plan
from ..plan.narrowing import reads_of, widths_of_plan, with_channels
from ..rewrite.module import converted_copy
from ..training.blockwise import start_narrowed
from .asking import Asking, Inputs
from .scoring import error_of

#: How finely the channels of a width are counted: by so many parts, or by a group norm's groups where they are larger.
_PARTS = 16
_CHOICES = 20


@dataclass(frozen=True)
class Curve:
    """One width.

    Args:
        name: of the width, that of its first maker.
        channels: how many there are.
        levels: channels left, from the fewest to all.
        errors: mean squared error of the output that is expected at each level, before any training.
    """

    name: str
    channels: int
    levels: tuple[int, ...]
    errors: tuple[float, ...]


def curves_of(
    model: nn.Module,
    plan: Plan,
    moments: Mapping[str, Moments],
    answer: Callable[..., Tensor],
    inputs: Sequence[Inputs],
) -> tuple[list[Curve], dict[str, list[int]]]:
    """The curve of every width that a plan of policy narrow narrows, and the order in which its channels are kept.

    Args:
        plan: one that leaves of every width as few channels as can be.
        moments: of the layers that read them, those that are known.
        answer: of the model to each of `inputs`.
    """
    least, rows = widths_of_plan(plan), {row.name: row for row in plan.layers}
    readers = {row.name: reads_of(row) for row in plan.replaced if reads_of(row)}
    powers = gradient_powers(model, readers, answer, inputs)
    curves, orders = [], {}
    for name, step in least.items():
        readings = [
            Reading.of(model.get_submodule(reader), moments.get(reader), place, powers[reader])
            for reader, place in _readers_of(name, rows, readers).items()
            if reader in powers
        ]
        channels = rows[name].out_channels
        orders[name], errors = selected(readings, channels, channels // step, step)
        curves.append(_curve(name, channels, step, [*errors[:-1], 0.0]))
    return curves, orders


def _readers_of(name: str, rows: Mapping[str, Any], readers: Mapping[str, Iterable[str]]) -> dict[str, slice]:
    """reader -> where the width's channels lie among those that it reads."""
    found = {}
    for reader, names in readers.items():
        start = 0
        for other in names:
            stop = start + rows[other].out_channels
            if other == name:
                found[reader] = slice(start, stop)
            start = stop
    return found


def _curve(name: str, channels: int, step: int, errors: Sequence[float]) -> Curve:
    """From the errors after none, one, two, ... and all steps the levels that count."""
    steps = len(errors) - 1
    taken = sorted({max(1, round(steps * part / _PARTS)) for part in range(1, _PARTS + 1)})
    return Curve(name, channels, tuple(n * step for n in taken), tuple(errors[n] for n in taken))


def gradient_powers(
    model: nn.Module, layers: Iterable[str], answer: Callable[..., Tensor], inputs: Sequence[Inputs]
) -> dict[str, Tensor]:
    """How much the output's mean squared error grows with the error of what layers make.

    Returns:
        name -> (C_out, C_out): with `V` the covariance of the error of what a layer makes at one position, the output's
        mean squared error is the sum of this times `V`.
    """
    found: dict[str, Tensor] = {}
    images = 0
    for number, batch in enumerate(inputs):
        made: list[tuple[str, Tensor]] = []
        with ExitStack() as stack, torch.enable_grad():
            for name in layers:
                handle = model.get_submodule(name).register_forward_hook(partial(_note, made, name))
                stack.callback(handle.remove)
            output = answer(*batch)
        draw = torch.Generator().manual_seed(number)
        mixture = torch.randn(output.shape, generator=draw).to(output)
        reached = [(name, tensor) for name, tensor in made if tensor.requires_grad]
        gradients = torch.autograd.grad(output, [t for _, t in reached], mixture, allow_unused=True)
        for (name, _), gradient in zip(reached, gradients, strict=True):
            if gradient is None:
                continue
            axis = -1 if isinstance(model.get_submodule(name), nn.Linear) else 1
            rows = gradient.double().movedim(axis, 0).flatten(1).cpu()
            power = rows @ rows.T / output[0].numel()
            found[name] = found.get(name, torch.zeros_like(power)) + power
        images += len(output)
    return {name: power / images for name, power in found.items()}


def _note(made: list[tuple[str, Tensor]], name: str, layer: nn.Module, given: Any, output: Tensor) -> Tensor:
    """Keep what a layer makes, with a gradient to come; the rest of the model goes on from a copy it may write to."""
    output = output if output.requires_grad else output.detach().requires_grad_()
    made.append((name, output))
    return output * 1


def random_choices(
    model: nn.Module,
    capture: Capture,
    plan: Plan,
    curves: Sequence[Curve],
    orders: Mapping[str, Sequence[int]],
    moments: Mapping[str, Moments],
    asking: Asking,
    inputs: Sequence[Inputs],
) -> list[tuple[float, float]]:
    """(sum of expected errors, error as it is before any training) of random choices, from nearly all channels to few.

    Args:
        asking: of the model; its narrower copies are asked the same.
    """
    draw, found = Random(0), []
    with torch.no_grad():
        wanted = [asking.answer(*batch) for batch in inputs]
        for number in range(_CHOICES):
            share = (number + 1) / _CHOICES
            levels = [draw.randint(int((len(c.levels) - 1) * (1 - share)), len(c.levels) - 1) for c in curves]
            left = {curve.name: curve.levels[level] for curve, level in zip(curves, levels, strict=True)}
            narrower = with_channels(plan, left)
            if not narrower.replaced:
                continue
            student = converted_copy(model, narrower, capture, check=False).eval()
            start_narrowed(narrower.replaced, model, student, moments, orders=orders)
            expected = sum(curve.errors[level] for curve, level in zip(curves, levels, strict=True))
            found.append((expected, error_of([asking.answer_of(student)(*batch) for batch in inputs], wanted)))
    return found
