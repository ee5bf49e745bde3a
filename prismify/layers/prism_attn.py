"""PrismAttn: attention whose four projections are Prisms (Eqs. 4-5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import Topology
from .deep_prism import Bias
from .prism import Prism


class PrismAttn(nn.Module):
    """Attention over positions with Prism projections: 4*K weights where attention has 4*C² (Eq. 5).

    The projections act on the C channels before heads are split; the product is
    `scaled_dot_product_attention` with scale 1/sqrt(head width).

    Args:
        channels: C.
        heads: how many heads the C channels are split into; 1 in the paper.
        kernel_size, bias, topology: of each projection, as in `Prism`.

    Shape: tokens (B, N, C) or a feature map (B, C, H, W) -> the same shape. `context` (B, M, C) makes
    it cross-attention.

    Raises:
        ShapeError: `heads` does not divide `channels`.

    Example:
        >>> PrismAttn(64, heads=4)(torch.zeros(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        kernel_size: int = 3,
        *,
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ShapeError(f"{channels} channels do not split into {heads} heads")
        self.channels, self.heads = channels, heads

        def projection() -> Prism:
            return Prism(channels, kernel_size=kernel_size, bias=bias, topology=topology, device=device, dtype=dtype)

        self.to_q, self.to_k, self.to_v, self.to_out = (projection() for _ in range(4))

    def reset_parameters(self) -> None:
        """Draw all four projections anew."""
        for layer in (self.to_q, self.to_k, self.to_v, self.to_out):
            layer.reset_parameters()

    def forward(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = u if u.dim() == 3 else u.flatten(2).transpose(1, 2)
        source = tokens if context is None else context
        q, k, v = self.to_q(tokens), self.to_k(source), self.to_v(source)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.to_out(attended)
        return y if u.dim() == 3 else y.transpose(1, 2).reshape(u.shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, heads={self.heads}"
