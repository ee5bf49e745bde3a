"""GroupNorm, activation, operator and residual sum as one function: what a graph pass puts in their place."""

from __future__ import annotations

from torch import Tensor

from ..errors import ShapeError
from . import unfused
from .problem import Geometry, make_problem
from .types import ACTIVATIONS, Activation, PaddingMode, Topology


def norm_act_deep_prism(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    num_groups: int,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: Activation = "silu",
    residual: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    padding_mode: PaddingMode = "zeros",
    topology: Topology = "zero",
) -> Tensor:
    """`deep_prism(activation(group_norm(x)), weight, bias) + residual`: the block diffusion models are made of.

    Args:
        x: feature map, shape (B, P*V, H, W).
        weight, bias, stride, padding, dilation, padding_mode, topology: as for `deep_prism`.
        num_groups: groups of channels that are normalised together.
        norm_weight, norm_bias: scale and shift of the norm, shape (P*V,), or None for 1 and 0.
        eps: added to the variance.
        activation: "silu" (Elfwing et al. 2018) or "none".
        residual: what is added to the result, of its shape.

    Returns:
        shape (B, Q*V, H', W'), as `deep_prism`.

    Raises:
        ShapeError: as `deep_prism`; there is no such activation, or the residual has another shape than the result.
        RuntimeError: torch's own, where the channels do not split into `num_groups`.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(2, 16, 8, 8), torch.randn(3, 3, 3)
        >>> norm_act_deep_prism(x, weight, num_groups=4, residual=x, padding=(1, 1)).shape
        torch.Size([2, 16, 8, 8])
    """
    geometry = Geometry(stride, padding, dilation, padding_mode, topology)
    if activation not in ACTIVATIONS:
        raise ShapeError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    problem = make_problem(x.shape, weight.shape, 0 if bias is None else bias.shape[0], geometry)
    shape = (problem.batch, problem.volumes[1] * problem.depth, *problem.size_out)
    if residual is not None and tuple(residual.shape) != shape:
        raise ShapeError(f"the residual is {tuple(residual.shape)}, the result {shape}; they must be alike")
    return unfused.norm_act_deep_prism(
        x, weight, bias, residual, norm_weight, norm_bias, num_groups, eps, activation, geometry
    )
