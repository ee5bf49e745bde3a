"""PrismMultihead: what takes the place of `nn.MultiheadAttention`, with its signature and Prism projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import Topology
from .deep_prism import Bias
from .prism import Prism
from .volumes import volumes_of

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")


class PrismMultihead(nn.Module):
    """`nn.MultiheadAttention` whose projections are Prisms: 4*K weights where it has 4*C² (Eq. 5).

    Queries, keys and values are projected before heads are split, each by a layer of its own: `q_proj`,
    `k_proj`, `v_proj`; then `out_proj`.

    Args:
        embed_dim: C, the width of queries and of the result.
        num_heads: how many heads C splits into.
        dropout: of attention weights, in training.
        kdim, vdim: widths of keys and values; C when left out.
        batch_first: whether inputs are (B, N, C) and not (N, B, C).
        projections: which of "q", "k", "v" are Prisms; the others are `nn.Linear`.
        depth: channels of a volume; C when left out.
        kernel_size, bias, topology: of each Prism, as there; `bias` None leaves out all biases.

    Raises:
        ShapeError: `num_heads` does not divide C, or `depth` does not divide the width of a projection.

    Example:
        >>> layer = PrismMultihead(64, 4, batch_first=True)
        >>> x = torch.zeros(2, 10, 64)
        >>> layer(x, x, x, need_weights=False)[0].shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([2, 10, 64]), 16)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        projections: Sequence[Projection] = PROJECTIONS,
        depth: int | None = None,
        kernel_size: int = 3,
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ShapeError(f"{embed_dim} channels do not split into {num_heads} heads")
        if set(projections) - set(PROJECTIONS):
            raise ShapeError(f"projections {tuple(projections)} are not among q, k, v")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.batch_first = dropout, batch_first
        depth = embed_dim if depth is None else depth

        def prism(width: int) -> Prism:
            volumes = volumes_of(width, embed_dim, depth)
            return Prism(width, embed_dim, kernel_size, bias=bias, topology=topology, volumes=volumes,
                         device=device, dtype=dtype)  # fmt: skip

        for name, width in zip(PROJECTIONS, (embed_dim, self.kdim, self.vdim), strict=True):
            dense = nn.Linear(width, embed_dim, bias=bias is not None, device=device, dtype=dtype)
            self.add_module(f"{name}_proj", prism(width) if name in projections else dense)
        self.out_proj: nn.Module = prism(embed_dim)

    #: Torch's encoder layers look here before they take a fast path of their own, which knows dense weights only.
    in_proj_weight = in_proj_bias = bias_k = bias_v = None
    _qkv_same_embed_dim = add_zero_attn = False

    @classmethod
    def from_multihead(
        cls,
        attention: nn.MultiheadAttention,
        *,
        projections: Sequence[Projection] | None = None,
        depth: int | None = None,
        kernel_size: int = 3,
        bias: Bias | None = "scalar",
        topology: Topology = "zero",
    ) -> Self:
        """What takes the place of `attention`: its geometry, dropout, device and dtype; Prisms freshly initialised.

        Args:
            projections: which of "q", "k", "v" become Prisms, by default those that are C->C; the others
                keep their weights, as copies.

        Raises:
            ShapeError: `attention` adds a bias or a zero to keys and values, or the depth does not fit.
        """
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ShapeError("nn.MultiheadAttention with add_bias_kv or add_zero_attn has no counterpart in Prisms")
        widths = (attention.embed_dim, attention.kdim, attention.vdim)
        square = [p for p, width in zip(PROJECTIONS, widths, strict=True) if width == attention.embed_dim]
        chosen = square if projections is None else projections
        weight = attention.out_proj.weight
        layer = cls(
            attention.embed_dim,
            attention.num_heads,
            attention.dropout,
            kdim=attention.kdim,
            vdim=attention.vdim,
            batch_first=attention.batch_first,
            projections=chosen,
            depth=depth,
            kernel_size=kernel_size,
            bias=bias if attention.in_proj_bias is not None else None,
            topology=topology,
            device=weight.device,
            dtype=weight.dtype,
        )
        for name in set(PROJECTIONS) - set(chosen):
            layer._keep(name, attention)
        return layer.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, shapes, masks and results.

        Raises:
            ShapeError: a mask does not fit, or `is_causal` comes without the mask that it is a hint about.
        """
        batched = query.dim() == 3
        if is_causal and attn_mask is None:
            raise ShapeError("is_causal is a hint about attn_mask: give that too, as to nn.MultiheadAttention")
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            torch.unflatten(getattr(self, f"{name}_proj")(x), -1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for name, x in zip(PROJECTIONS, (query, key, value), strict=True)
        )
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self._mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-1, -2)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"

    def _keep(self, name: Projection, attention: nn.MultiheadAttention) -> None:
        """Give a dense projection the weights it has in `attention`."""
        at = PROJECTIONS.index(name)
        packed, bias = attention.in_proj_weight, attention.in_proj_bias
        source = getattr(attention, f"{name}_proj_weight") if packed is None else packed
        weight = source.detach() if packed is None else source.detach().chunk(3)[at]
        linear = getattr(self, f"{name}_proj")
        linear.weight = nn.Parameter(weight.clone(), source.requires_grad)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().chunk(3)[at].clone(), bias.requires_grad)

    def _mask(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores (B, heads, N, M)."""
        (batch, heads, n, _), m = q.shape, k.shape[2]
        terms = []
        if attn_mask is not None:
            if tuple(attn_mask.shape) not in ((n, m), (batch * heads, n, m)):
                raise ShapeError(
                    f"attn_mask {tuple(attn_mask.shape)} is neither ({n}, {m}) nor ({batch * heads}, {n}, {m})"
                )
            mask = _added(attn_mask, q)
            terms.append(mask if mask.dim() == 2 else torch.unflatten(mask, 0, (batch, heads)))
        if padding is not None:
            if tuple(padding.shape) not in ((batch, m), (m,)):
                raise ShapeError(f"key_padding_mask {tuple(padding.shape)} is not ({batch}, {m})")
            terms.append(_added(padding, q).reshape(-1, 1, 1, m))
        return sum(terms[1:], terms[0]) if terms else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add: minus infinity where a boolean one says to look away."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
