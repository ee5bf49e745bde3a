"""GroupNorm, activation, operator and residual sum one after the other: what the fused form is judged by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..functional import deep_prism
from ..problem import Geometry, NormAct


def norm_act_deep_prism(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    block: NormAct,
    geometry: Geometry,
    *,
    eager: bool = False,
) -> Tensor:
    """As `prismify.kernels.norm_act_deep_prism`; differentiable any number of times, under any transform.

    Args:
        eager: nobody transforms or watches the call: what lies between its parts may be overwritten.
    """
    u = F.group_norm(x, block.groups, norm_weight, norm_bias, block.eps)
    if block.activation == "silu":
        u = F.silu(u, inplace=eager and not u.requires_grad)
    y = deep_prism(
        u,
        weight,
        bias,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        padding_mode=geometry.padding_mode,
        topology=geometry.topology,
    )
    if residual is None:
        return y
    return y.add_(residual) if eager and y.dtype == residual.dtype else y + residual
