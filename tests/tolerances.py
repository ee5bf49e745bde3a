"""How near is near enough, by name and in one place."""

from __future__ import annotations

import torch
from torch import Tensor


def exact(a: Tensor, b: Tensor) -> None:
    """Bit for bit: saving and loading, replaying a plan."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert torch.equal(a, b)


def equivalent(a: Tensor, b: Tensor) -> None:
    """Algebraic identities, judged in float64."""
    assert a.dtype == b.dtype == torch.float64
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
