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


#: Largest relative error (norm of the difference over norm of the definition) that rounding to an element
#: type, and sums in it or wider, account for.
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def rounded(a: Tensor, definition: Tensor, dtype: torch.dtype | None = None) -> None:
    """A result in `dtype` (its own, if not said) against the definition computed in float64. NaN never passes."""
    assert definition.dtype == torch.float64
    assert a.shape == definition.shape
    scale = definition.norm().item()
    error = (a.double() - definition).norm().item()
    limit = ROUNDING[dtype or a.dtype] * max(scale, 1e-30)
    assert error <= limit, f"relative error {error / max(scale, 1e-30):.2e}"
