"""What each candidate costs: the error of the model's output with that one block replaced, on images held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..bench.timing import compare
from .asking import Inputs
from .choosing import Budget, Option, choose
from .ladder import KEPT, Entry
from .library import Library
from .replaying import Replay

#: Runs a model on what it is given and returns what is compared.
Answer = Callable[..., Tensor]
_PLANS = 20
#: The error of a candidate whose numbers are none any more.
_BROKEN = 1e30


@dataclass(frozen=True)
class Scores:
    """What was measured of every entry, in the order of the ladder.

    Args:
        error: mean squared error between the model's output with the candidate in place and without.
        block_error: of the block's own output, over its variance.
        milliseconds: of one call of the block for one image; 0 where it was not timed.
        variance: of the model's output.
        reference: mean squared error between output and images, where the model gives images back; None elsewhere.
        images: how many were measured on.
        total_milliseconds: of one pass of the model for one image.
        correlation: Spearman's, between summed scores and the error of 20 random choices as it is.
        random: (sum of scores, error) of each of them.
        likely_correlation, likely: the same of 20 choices such as budgets lead to: the best ones for scores that are
            off by chance, under budgets from nearly everything to the least.
    """

    error: list[float] = field(default_factory=list)
    block_error: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    variance: float = 0.0
    reference: float | None = None
    images: int = 0
    total_milliseconds: float = 0.0
    correlation: float = 0.0
    random: list[tuple[float, float]] = field(default_factory=list)
    likely_correlation: float = 0.0
    likely: list[tuple[float, float]] = field(default_factory=list)


def score(
    model: nn.Module,
    library: Library,
    entries: Sequence[Entry],
    inputs: Sequence[Inputs],
    answer: Answer,
    block_errors: dict[str, float],
    tell: Callable[[int, int], None],
    *,
    reconstructs: bool,
    known: dict[str, float] | None = None,
) -> Scores:
    """Measure every entry of a ladder.

    Args:
        inputs: batches, on the model's device.
        answer: of the model, which holds the candidates while it is asked.
        block_errors: key of a candidate -> error of the block's output over its variance.
        tell: how many measurements are done, of how many.
        reconstructs: whether output and images are to be alike.
        known: number of a batch and of an entry, as "0/3" -> error, from an earlier start; what is measured is added.
    """
    known = {} if known is None else known
    library.eval()
    blocks = list(dict.fromkeys(entry.block for entry in entries))
    replay = Replay(model, blocks)
    with torch.no_grad():
        times, whole = _times(model, library, entries, tuple(value[:1] for value in inputs[0]), answer)
        wanted, sums = [], [0.0] * len(entries)
        for number, batch in enumerate(inputs):
            with replay.recorded():
                wanted.append(answer(*batch))
            for place, entry in enumerate(entries):
                if entry.candidate != KEPT:
                    key = f"{number}/{place}"
                    if key not in known:
                        with replay.up_to(entry.block), library.in_place(model, [str(place)]):
                            known[key] = error_of([answer(*batch)], wanted[-1:])
                    sums[place] += known[key] * wanted[-1].numel()
                tell(number * len(entries) + place + 1, len(inputs) * len(entries))
        errors = [_finite(total / sum(output.numel() for output in wanted)) for total in sums]
        own = [_finite(block_errors.get(str(n), 0.0)) if e.candidate != KEPT else 0.0 for n, e in enumerate(entries)]
        variance, reference = spread_of(wanted, inputs, reconstructs=reconstructs)

        def measured(chosen: Sequence[int]) -> tuple[float, float]:
            keys = [str(n) for n in chosen if entries[n].candidate != KEPT]
            with library.in_place(model, keys):
                return sum(errors[n] for n in chosen), error_of([answer(*batch) for batch in inputs], wanted)

        random, likely = (
            [pair for chosen in choices if math.isfinite((pair := measured(chosen))[1])]
            for choices in (_random_choices(entries), _likely_choices(entries, errors))
        )
    return Scores(
        errors,
        own,
        times,
        variance,
        reference,
        sum(len(batch[0]) for batch in inputs),
        whole,
        spearman([s for s, _ in random], [e for _, e in random]),
        random,
        spearman([s for s, _ in likely], [e for _, e in likely]),
        likely,
    )


def _random_choices(entries: Sequence[Entry]) -> Iterator[list[int]]:
    """Any candidates, from a few blocks replaced to all of them."""
    draw = Random(0)
    of_blocks: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        of_blocks.setdefault(entry.block, []).append(number)
    for plan in range(_PLANS):
        share = (plan + 1) / _PLANS
        yield [draw.choice(n[1:] if draw.random() < share and len(n) > 1 else n[:1]) for n in of_blocks.values()]


def _likely_choices(entries: Sequence[Entry], errors: Sequence[float]) -> Iterator[list[int]]:
    """The best choices for errors that are off by chance, under budgets of parameters at even ratios."""
    draw = Random(1)
    sizes: dict[str, list[int]] = {}
    for entry in entries:
        sizes.setdefault(entry.block, []).append(entry.parameters)
    least, most = (sum(pick(n) for n in sizes.values()) for pick in (min, max))
    for plan in range(_PLANS):
        options = [
            Option(e.block, e.parameters, e.macs, 0.0, error * math.exp(draw.gauss(0, 1)))
            for e, error in zip(entries, errors, strict=True)
        ]
        yield choose(options, Budget(parameters=max(1, least) * (most / max(1, least)) ** (plan / _PLANS)))


def _times(
    model: nn.Module, library: Library, entries: Sequence[Entry], one: Inputs, answer: Answer
) -> tuple[list[float], float]:
    """Milliseconds of every entry for one image, block by block in the same rounds; and of the model as it is."""
    given: dict[str, tuple[Any, Any]] = {}

    def note(block: str) -> Any:
        return lambda _, args, kwargs: given.setdefault(block, (args, kwargs))

    blocks = list(dict.fromkeys(entry.block for entry in entries))
    handles = [model.get_submodule(b).register_forward_pre_hook(note(b), with_kwargs=True) for b in blocks]
    try:
        answer(*one)
    finally:
        for handle in handles:
            handle.remove()
    times = {}
    for block in blocks:
        if block not in given:
            continue
        args, kwargs = given[block]
        modules = {
            str(n): model.get_submodule(block) if e.candidate == KEPT else library.pupils[str(n)]
            for n, e in enumerate(entries)
            if e.block == block
        }
        calls = {key: partial(module, *args, **kwargs) for key, module in modules.items()}
        times.update({key: t.median_ms for key, t in compare(calls, one[0].device, seconds=0.05).items()})
    whole = compare({"whole": lambda: answer(*one)}, one[0].device, seconds=0.5)["whole"].median_ms
    return [times.get(str(n), 0.0) for n in range(len(entries))], whole


def _finite(error: float) -> float:
    return error if math.isfinite(error) else _BROKEN


def spread_of(outputs: Sequence[Tensor], inputs: Sequence[Inputs], *, reconstructs: bool) -> tuple[float, float | None]:
    """(variance of the outputs, their mean squared error against the images where they are to be like those)."""
    everything = torch.cat([output.flatten() for output in outputs]).double()
    alike = reconstructs and outputs[0].shape == inputs[0][0].shape
    reference = error_of(outputs, [batch[0] for batch in inputs]) if alike else None
    return float(everything.var(correction=0)), reference


def error_of(said: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The mean squared error over all numbers of all batches."""
    total = sum(float((s.double() - w.double()).square().sum()) for s, w in zip(said, wanted, strict=True))
    return total / sum(w.numel() for w in wanted)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation of two rows of numbers; 0 where one of them never changes."""
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(first, second).statistic)
