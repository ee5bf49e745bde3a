"""Tucker factors of a layer's map, nearest on the layer's own inputs: one factor after the other, each exactly.

A layer's map is a tensor here, (C, taps, C'), of a transposed convolution (C, C', taps). Its nearest factors have no
closed form together; each has one while the others stay, and a few rounds suffice, from the singular vectors of the
whitened map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .solving import inverse_root, solved

_ROUNDS = 4
_MOST_STEPS = 30
_NEAR = 1e-8


def tucker(made: Tensor, covariance: Tensor, inside: int, outside: int) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of a convolution.

    Args:
        made: the layer's map, shape (C, taps, C').
        covariance: of its features, shape (C * taps, C * taps).
        inside, outside: the ranks.

    Returns:
        down (C, inside) and up (C', outside) with orthonormal columns, and core (inside, taps, outside): the map is
        einsum("ci,ito,po->ctp", down, core, up).
    """
    channels, taps, _ = made.shape
    flat, square = made.flatten(0, 1), covariance.reshape(channels, taps, channels, taps)
    wanted = covariance @ flat
    up = torch.linalg.eigh(flat.T @ wanted).eigenvectors[:, -outside:]
    over_taps = torch.einsum("ctdt->cd", square) / taps
    down = _leading((flat @ up).reshape(channels, -1), over_taps, inside)
    core = _core(down, square, wanted @ up)
    for _ in range(_ROUNDS):
        down = _orthonormal(_down(down, core, covariance, (wanted @ up).reshape(channels, taps, outside)))
        core = _core(down, square, wanted @ up)
        seen = torch.einsum("ci,ito->cto", down, core).flatten(0, 1)
        up = _orthonormal(solved(seen.T @ covariance @ seen, seen.T @ wanted).T)
        core = _core(down, square, wanted @ up)
    return down, core, up


def tucker_of_patches(made: Tensor, second: Tensor, inside: int, outside: int) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of a transposed convolution, nearest in the patch that each position makes, as HOOI finds them.

    Args:
        made: the layer's map, shape (C, C', taps).
        second: moment of its features, shape (C, C).

    Returns:
        down (C, inside), core (inside, outside, taps) and up (C', outside).
    """
    channels = made.shape[0]
    up = torch.eye(made.shape[1], dtype=made.dtype)
    for _ in range(_ROUNDS):
        down = _leading(torch.einsum("cpt,po->cot", made, up).reshape(channels, -1), second, inside)
        map_of_down = solved(down.T @ second @ down, down.T @ second @ made.flatten(1)).reshape(-1, *made.shape[1:])
        power = torch.linalg.cholesky(down.T @ second @ down + 1e-12 * torch.eye(inside, dtype=made.dtype))
        patches = torch.einsum("ij,ipt->pjt", power, map_of_down).flatten(1)
        up = torch.linalg.svd(patches, full_matrices=True).U[:, :outside]
    return down, torch.einsum("ipt,po->iot", map_of_down, up), up


def _leading(made: Tensor, covariance: Tensor, rank: int) -> Tensor:
    """(C, rank), orthonormal: the inputs' directions that a map (C, ...) makes most of."""
    root, back = inverse_root(covariance)
    left = torch.linalg.svd(root @ made, full_matrices=True).U[:, :rank]
    return _orthonormal(back @ left)


def _core(down: Tensor, square: Tensor, wanted: Tensor) -> Tensor:
    """(inside, taps, outside): least squares, given what is read."""
    channels, inside = down.shape
    taps = square.shape[1]
    seen = torch.einsum("ci,ctds,dj->itjs", down, square, down).reshape(inside * taps, inside * taps)
    aim = torch.einsum("ci,cto->ito", down, wanted.reshape(channels, taps, -1))
    return solved(seen, aim.flatten(0, 1)).reshape(inside, taps, -1)


def _down(down: Tensor, core: Tensor, covariance: Tensor, wanted: Tensor) -> Tensor:
    """(C, inside): least squares, given the core, by conjugate gradients from the last ones."""

    def normal(x: Tensor) -> Tensor:
        out = covariance @ torch.einsum("ci,ito->cto", x, core).flatten(0, 1)
        return torch.einsum("cto,ito->ci", out.reshape(wanted.shape), core)

    aim = torch.einsum("cto,ito->ci", wanted, core)
    left = aim - normal(down)
    step, power = left, left.square().sum()
    enough = _NEAR**2 * aim.square().sum()
    for _ in range(_MOST_STEPS):
        if power <= enough:
            break
        through = normal(step)
        if (curvature := (step * through).sum()) <= 0:
            break
        share = power / curvature
        down, left = down + share * step, left - share * through
        step, power = left + left.square().sum() / power * step, left.square().sum()
    return down


def _orthonormal(columns: Tensor) -> Tensor:
    result: Tensor = torch.linalg.qr(columns).Q
    return result
