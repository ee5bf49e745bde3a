"""The generators that whatever is random in a process draws from: Python's, numpy's, and torch's of every device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put the generators back as they were, whatever was drawn inside; also a decorator."""
    python, of_numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)


def seed_generators(seed: int) -> None:
    """Start all of them anew.

    Args:
        seed: from 0 to 2**64 - 1.
    """
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # else it would keep the seed until it is
        torch.cuda.manual_seed_all(seed)


def mixed(*numbers: int) -> int:
    """One seed from several numbers; their order counts.

    Example:
        >>> mixed(0, 1) != mixed(1, 0)
        True
    """
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> np.uint64(1))
