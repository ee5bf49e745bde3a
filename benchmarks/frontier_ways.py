"""The ways of `frontier.py` to make a model small: what each changes, and which candidates or widths it takes."""

from __future__ import annotations

import sys

from prismify.search import Budget, Outcome
from prismify.search.ladder import KEPT

#: Way -> what it changes in the recipe `distil`.
WAYS: dict[str, list[str]] = {
    "search": ["blocks={share: 0.25, own_inputs: 1}"],
    "greedy": ["blocks={share: 0.25, own_inputs: 1}"],
    "uniform": ["blocks={share: 0.25, own_inputs: 1}"],
    "narrow": ["blocks={fitted: 64}"],
    "slim": ["blocks={fitted: 64}"],
    "widths": ["blocks={fitted: 64}"],
    "fitted": ["blocks={fitted: 64}"],
    "whole": [],
}


#: The widths of TAEF2 by their first makers, from full size to an eighth: residual streams, and what is inside blocks.
LEVELS = (
    (("encoder.0", "decoder.17"), ("encoder.1.*", "decoder.18.*")),
    (("encoder.2", "decoder.12"), ("encoder.[345].*", "decoder.1[345].*")),
    (("encoder.6", "decoder.7"), ("encoder.[789].*", "decoder.[89].*", "decoder.10.*")),
    (("encoder.10", "decoder.1"), ("encoder.1[123].*", "decoder.[345].*")),
)
WIDTH = 64
#: Budget -> channels of a stream and inside its blocks, by level. Latents of 32 channels pass the narrowest stream.
SLIM = {
    "80K": ((8, 8), (8, 8), (16, 4), (24, 4)),
    "270K": ((16, 16), (24, 16), (32, 16), (32, 8)),
    "670K": ((16, 16), (32, 24), (48, 24), (64, 16)),
}
#: Ways that need no search of blocks.
NARROW = {"narrow", "slim", "widths"}


def amount(text: str) -> float:
    """A budget as a number: 80K is 80,000."""
    return float(text[:-1]) * {"K": 1e3, "M": 1e6}[text[-1].upper()]


def slim_shares(budget: str) -> dict[str, float]:
    """Of each width's channels those that `slim` leaves, by patterns over names."""
    return {
        pattern: channels / WIDTH
        for level, widths in zip(LEVELS, SLIM[budget], strict=True)
        for patterns, channels in zip(level, widths, strict=True)
        for pattern in patterns
    }


def greedy(outcome: Outcome, most: float) -> list[int]:
    """The exchange with the least added error for each parameter saved, until the model is small enough."""
    options, chosen = outcome.options(), {}
    for n, entry in enumerate(outcome.entries):
        if entry.candidate == KEPT:
            chosen[entry.block] = n

    def total() -> float:
        return outcome.elsewhere + sum(options[n].parameters for n in chosen.values())

    while total() > most:
        steps = [
            ((o.error - options[chosen[o.block]].error) / saved, n)
            for n, o in enumerate(options)
            if (saved := options[chosen[o.block]].parameters - o.parameters) > 0
        ]
        if not steps:
            sys.exit(f"no choice has at most {most:,.0f} parameters")
        _, best = min(steps)
        chosen[options[best].block] = best
    return sorted(chosen.values())


def uniform(outcome: Outcome, most: float) -> list[int]:
    """One candidate wherever it is to be had, and the smallest one elsewhere: the one with the least summed error."""
    options, entries = outcome.options(), outcome.entries
    blocks = dict.fromkeys(entry.block for entry in entries)
    found = []
    for candidate in dict.fromkeys(entry.candidate for entry in entries):
        choice = []
        for block in blocks:
            own = [n for n, entry in enumerate(entries) if entry.block == block]
            named = [n for n in own if entries[n].candidate == candidate]
            choice.append(named[0] if named else min(own, key=lambda n: options[n].parameters))
        if outcome.elsewhere + sum(options[n].parameters for n in choice) <= most:
            found.append((sum(options[n].error for n in choice), choice))
    if not found:
        sys.exit(f"no uniform choice has at most {most:,.0f} parameters")
    return min(found)[1]


def chosen_by(way: str, outcome: Outcome, most: float) -> list[int]:
    if way == "greedy":
        return greedy(outcome, most)
    return uniform(outcome, most) if way == "uniform" else outcome.within(Budget(parameters=most))
