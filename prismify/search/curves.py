"""What fewer channels cost: of every width, the output's error against the channels that are left of it.

To first order, a change d of what a layer makes changes the output by J d. With weights fitted to the channels that are
left, d is what those cannot tell of what the layer made, and the power of J is that of the gradients of random mixtures
of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..graph import Capture
from ..layers.spectrum import Moments
from ..layers.spectrum.selecting import Reading, makes_up_for_means, selected
from ..layers.spectrum.shapes import is_transposed
from ..plan import Plan
from ..plan.narrowing import reads_of, widths_of_plan, with_channels
from ..rewrite.module import converted_copy
from ..training.blockwise import start_narrowed
from .asking import Asking, Inputs
from .scoring import error_of

#: How finely the channels of a width are counted: by so many parts, or by a group norm's groups where they are larger.
_PARTS = 16
_CHOICES = 20
#: Of each call of a layer, of whose features there are too many for their moments.
_POSITIONS = 2000


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

    Returns:
        the curves; those of widths that no gradient reaches have one level, all channels. And the orders, by name.

    Raises:
        PlanError: no gradient reaches any of them, or the model's numbers are not finite.
    """
    least, rows = widths_of_plan(plan), {row.name: row for row in plan.layers}
    readers = {row.name: reads_of(row) for row in plan.replaced if reads_of(row)}
    powers = gradient_powers(model, readers, answer, inputs)
    wide = channel_covariances(model, [name for name in powers if name not in moments], answer, inputs)
    curves, orders = [], {}
    for name, step in least.items():
        channels = rows[name].out_channels
        readings = [
            Reading.of(model.get_submodule(reader), moments.get(reader), place, powers[reader], wide.get(reader))
            for reader, place in _readers_of(name, rows, readers).items()
            if reader in powers
        ]
        if not readings:  # nobody knows what they are worth
            orders[name] = list(range(channels))
            curves.append(Curve(name, channels, (channels,), (0.0,)))
            continue
        orders[name], errors = selected(readings, channels, channels // step, step)
        curves.append(_curve(name, channels, step, [*errors[:-1], 0.0]))
    if not all(math.isfinite(error) for curve in curves for error in curve.errors):
        raise PlanError(f"{plan.model} makes numbers of these images that are not finite: see that data.range is right")
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
    taken = sorted({1, *(max(1, round(steps * part / _PARTS)) for part in range(1, _PARTS + 1))})
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
        if not output.requires_grad:
            raise PlanError(
                f"no gradient of {type(model).__name__}'s output reaches its layers (torch.no_grad, or numbers that "
                "are rounded): what their channels are worth is not known"
            )
        gradients = torch.autograd.grad(output, [tensor for _, tensor in made], mixture, allow_unused=True)
        for (name, _), gradient in zip(made, gradients, strict=True):
            if gradient is None:
                continue
            layer: Any = model.get_submodule(name)
            rows = gradient.double().movedim(_channel_axis(layer, gradient), 0).flatten(1).cpu()
            # Of a transposed convolution an output takes part in so many patches less.
            parts = prod(layer.stride) if is_transposed(layer) else 1
            power = rows @ rows.T / (output[0].numel() * parts)
            found[name] = found.get(name, torch.zeros_like(power)) + power
        images += len(output)
    return {name: power / images for name, power in found.items() if power.any()}


def channel_covariances(
    model: nn.Module, layers: Sequence[str], answer: Callable[..., Tensor], inputs: Sequence[Inputs]
) -> dict[str, Tensor]:
    """(C, C), how the channels that layers read vary together, or what their products are where no bias makes up for
    their means; by name, float64."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str, layer: nn.Module, given: Any) -> None:
        rows = given[0].detach().movedim(_channel_axis(layer, given[0]), -1).flatten(0, -2)
        rows = rows[:: max(1, len(rows) // _POSITIONS)].double().cpu()
        sums = torch.cat([rows.sum(0)[None], rows.T @ rows])
        found[name] = [sums + before for before in found[name]] or [sums]
        counts[name] = counts.get(name, 0) + len(rows)

    counts: dict[str, int] = {}
    with ExitStack() as stack, torch.no_grad():
        for name in layers:
            handle = model.get_submodule(name).register_forward_pre_hook(partial(note, name))
            stack.callback(handle.remove)
        for batch in inputs if layers else ():
            answer(*batch)
    covariances = {}
    for name, (sums,) in ((name, sums) for name, sums in found.items() if sums):
        mean = sums[0] / counts[name] * makes_up_for_means(model.get_submodule(name))
        covariances[name] = sums[1:] / counts[name] - torch.outer(mean, mean)
    return covariances


def _channel_axis(layer: Any, tensor: Tensor) -> int:
    """Where the channels of what a layer reads or makes lie, in a batch or alone."""
    return -1 if isinstance(layer, nn.Linear) else tensor.dim() - len(layer.kernel_size) - 1


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
    return [pair for pair in found if math.isfinite(pair[1])]
