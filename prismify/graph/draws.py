"""The generators that a model holds itself, beside those of the process; and whether any random number was drawn."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

#: What draws.
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


def state_of(generator: Any) -> Any:
    """How far a generator is."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()


def put_back(generator: Any, state: Any) -> None:
    """Take a generator back to where it was."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def seed(generator: Any, number: int) -> None:
    """Start a generator anew."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    else:
        generator.seed(number)


def drawn(held: Iterable[Any]) -> list[Any]:
    """How far the process's generators and the `held` ones are, in plain values: they differ once one has drawn."""
    of_torch = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        of_torch += torch.cuda.default_generators
    states = [random.getstate(), np.random.get_state(), *map(state_of, of_torch), *map(state_of, held)]
    return [_plain(state) for state in states]


def _plain(state: Any) -> Any:
    if isinstance(state, (torch.Tensor, np.ndarray)):
        return state.tolist()
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return [_plain(value) for value in state] if isinstance(state, (tuple, list)) else state
