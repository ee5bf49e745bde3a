"""Linear algebra of warm starts, where some inputs may never vary; float64."""

from __future__ import annotations

import torch
from torch import Tensor

#: Beside the mean of a matrix' diagonal: so much is added to it before it is inverted.
_RIDGE = 1e-10


def solved(square: Tensor, right: Tensor) -> Tensor:
    """The least-squares solution of normal equations, which inputs that never vary leave open near zero."""
    result: Tensor = torch.linalg.solve(_ridged(square), right)
    return result


def inverse_root(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """R with R.T @ R the covariance, and R's inverse."""
    root = torch.linalg.cholesky(_ridged(covariance), upper=True)
    return root, torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=True)


def _ridged(square: Tensor) -> Tensor:
    ridge = _RIDGE * float(square.diagonal().mean().clamp(min=torch.finfo(square.dtype).tiny))
    return square + ridge * torch.eye(len(square), dtype=square.dtype)
