"""GroupNorm, activation, operator and residual sum as one function: what a graph pass puts in their place."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...errors import ShapeError
from ..engines import ENGINES, forced, fuser, fusing
from ..functional import differentiates_otherwise, exporting, seen_by_others, watched
from ..problem import Geometry, NormAct, Problem, cached_problem, make_problem
from ..types import ACTIVATIONS, Activation, PaddingMode, Topology
from . import autograd as fused_autograd
from . import composition as unfused
from . import ops as fused_ops
from .protocol import Tensors


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
    device, bias_size = x.device.type, 0 if bias is None else bias.shape[0]
    compiling = torch.compiler.is_compiling()
    block, geometry, problem, fuses = (_described if compiling else _cached)(
        x.shape, weight.shape, bias_size, None if residual is None else residual.shape, num_groups, eps, activation,
        stride, padding, dilation, padding_mode, topology, device, x.dtype, None if compiling else forced(),
    )  # fmt: skip
    tensors = (x, weight, bias, residual, norm_weight, norm_bias)
    if not fuses or not _suits(tensors):
        eager = not (compiling or differentiates_otherwise() or watched())
        return unfused.norm_act_deep_prism(*tensors, block, geometry, eager=eager)
    if compiling:
        return _registered(tensors, block, geometry)
    if differentiates_otherwise() or torch.is_autocast_enabled(device):
        return unfused.norm_act_deep_prism(*tensors, block, geometry)
    if seen_by_others(*tensors):
        return _registered(tensors, block, geometry)
    run = fusing(problem, block, device, x.dtype)
    if run is None:
        return unfused.norm_act_deep_prism(*tensors, block, geometry)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return fused_autograd.forward(*tensors, block, problem, run)
    return run.forward(*tensors, block, problem)[0]


def _registered(tensors: Tensors, block: NormAct, geometry: Geometry) -> Tensor:
    """The call as compilers and modes should see it."""
    x = tensors[0]
    # An exported model runs without this package; autocast types each part by itself.
    if exporting() or torch.is_autocast_enabled(x.device.type):
        return unfused.norm_act_deep_prism(*tensors, block, geometry)
    output: Tensor = fused_ops.norm_act_deep_prism(*tensors, *fused_ops.words(block, geometry))[0]
    return output


def _described(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    bias_size: int,
    residual: tuple[int, ...] | None,
    num_groups: int,
    eps: float,
    activation: Activation,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    padding_mode: PaddingMode,
    topology: Topology,
    device: str,
    dtype: torch.dtype,
    named: str | None,
) -> tuple[NormAct, Geometry, Problem, bool]:
    """What a call is, and whether an engine fuses it.

    Args:
        named: the engine of `use_engine`, which `fuser` takes and a cache must know.
    """
    if activation not in ACTIVATIONS:
        raise ShapeError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    block, geometry = NormAct(num_groups, eps, activation), Geometry(stride, padding, dilation, padding_mode, topology)
    make = make_problem if torch.compiler.is_compiling() else cached_problem
    problem = make(x, weight, bias_size, geometry)
    if residual is not None and tuple(residual) != problem.shape_out:
        raise ShapeError(f"the residual is {tuple(residual)}, the result {problem.shape_out}; they must be alike")
    suits = num_groups > 0 and x[1] % num_groups == 0
    name = fuser(device)
    fuses = name is not None and suits and ENGINES[name].why_not_fused(problem, block, dtype) is None
    return block, geometry, problem, fuses


#: A block asks the same at every step.
_cached = lru_cache(maxsize=4096)(_described)


def _suits(tensors: Tensors) -> bool:
    """Whether a fused engine takes these; the composition, or its errors, serve the rest."""
    x, *_, norm_weight, norm_bias = tensors
    channels = x.shape[1]
    return (
        all(t is None or (t.dtype == x.dtype and t.device == x.device) for t in tensors)
        and all(p is None or p.shape == (channels,) for p in (norm_weight, norm_bias))
        and x.numel() > 1
    )
