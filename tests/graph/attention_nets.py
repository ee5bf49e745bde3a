"""Attention in the forms it takes: one projection for q, k and v in several orders, grouped heads, no softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

C, HEADS = 32, 4
WIDTH = C // HEADS


def heads_of(x: Tensor) -> Tensor:
    """(B, N, C) -> (B, heads, N, d)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def contiguous(y: Tensor) -> tuple[Tensor, ...]:
    """timm's ViT: (q|k|v), heads inside each."""
    b, n, _ = y.shape
    return y.reshape(b, n, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)


def chunked(y: Tensor) -> tuple[Tensor, ...]:
    return tuple(heads_of(x) for x in y.chunk(3, dim=-1))


def by_head(y: Tensor) -> tuple[Tensor, ...]:
    """(head 0: q k v, head 1: q k v, ...)."""
    q, k, v = y.unflatten(-1, (HEADS, 3 * WIDTH)).transpose(1, 2).split(WIDTH, dim=-1)
    return q, k, v


def innermost(y: Tensor) -> tuple[Tensor, ...]:
    """`b n (h d qkv)`: q, k and v of one channel are neighbours."""
    q, k, v = y.unflatten(-1, (HEADS, WIDTH, 3)).permute(4, 0, 2, 1, 3)
    return q, k, v


def reordered(y: Tensor) -> tuple[Tensor, ...]:
    """v first, k last."""
    v, q, k = chunked(y)
    return q, k, v


#: Each with how the channels lie: (runs a volume is cut into, order of q, k, v within the pattern).
ORDERS = {
    contiguous: (1, "qkv"),
    chunked: (1, "qkv"),
    by_head: (HEADS, "qkv"),
    innermost: (C, "qkv"),
    reordered: (1, "vqk"),
}


def rotate(x: Tensor) -> Tensor:
    """A rotary embedding: two halves mix."""
    position = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    cos, sin = position.cos(), position.sin()
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Fused(nn.Module):
    """A ViT's block: Linear(C, 3C), normed and rotated queries and keys."""

    def __init__(self, order=contiguous, rotary: bool = False, softmax: bool = True) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.q_norm = nn.LayerNorm(WIDTH) if rotary else nn.Identity()
        self.order, self.rotary, self.softmax = order, rotary, softmax

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        q, k, v = self.order(self.qkv(h))
        q = self.q_norm(q)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        if self.softmax:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k = F.relu(q), F.relu(k)
            y = q @ (k.transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
            y = y[..., :-1] / (y[..., -1:] + 1e-6)
        return self.tail(h + self.out(y.transpose(1, 2).flatten(2)))


class FusedKeyValue(nn.Module):
    """q apart, k and v in one, of the data or of a context."""

    def __init__(self, context: int | None = None) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.q, self.kv, self.out = nn.Linear(C, C), nn.Linear(context or C, 2 * C), nn.Linear(C, C)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.head(x)
        k, v = self.kv(h if context is None else context).chunk(2, -1)
        y = F.scaled_dot_product_attention(heads_of(self.q(h)), heads_of(k), heads_of(v))
        return self.tail(h + self.out(y.transpose(1, 2).flatten(2)))


class GuidedDiffusion(nn.Module):
    """Conv1d qkv; "legacy" splits heads before q, k, v, the new order after."""

    def __init__(self, legacy: bool) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)
        self.norm, self.qkv, self.proj_out = nn.GroupNorm(8, C), nn.Conv1d(C, 3 * C, 1), nn.Conv1d(C, C, 1)
        self.legacy = legacy

    def attend(self, qkv: Tensor) -> Tensor:
        b, _, n = qkv.shape
        if self.legacy:
            q, k, v = qkv.reshape(b * HEADS, 3 * WIDTH, n).split(WIDTH, dim=1)
        else:
            q, k, v = (x.reshape(b * HEADS, WIDTH, n) for x in qkv.chunk(3, dim=1))
        weight = torch.einsum("bct,bcs->bts", q * WIDTH**-0.25, k * WIDTH**-0.25).softmax(-1)
        return torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, n)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        b, c, *spatial = x.shape
        flat = x.reshape(b, c, -1)
        h = self.proj_out(self.attend(self.qkv(self.norm(flat))))
        return self.tail((flat + h).reshape(b, c, *spatial))


class CompVisLinear(nn.Module):
    """CompVis' LinearAttention: Conv2d qkv, softmax over the keys alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)
        self.to_qkv, self.to_out = nn.Conv2d(C, 3 * C, 1, bias=False), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        b, c, h, w = x.shape
        q, k, v = self.to_qkv(x).reshape(b, 3, HEADS, WIDTH, h * w).unbind(1)
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
        out = torch.einsum("bhde,bhdn->bhen", context, q)
        return self.tail(x + self.to_out(out.reshape(b, c, h, w)))


class Grouped(nn.Module):
    """Grouped queries: `keys` heads of k and v serve all heads of q; apart, in one layer, or in one, group by group."""

    def __init__(self, form: str, keys: int = 2) -> None:
        super().__init__()
        self.form, self.keys = form, keys
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        narrow = keys * WIDTH
        if form == "apart":
            self.q, self.k, self.v = nn.Linear(C, C), nn.Linear(C, narrow), nn.Linear(C, narrow)
        else:
            self.qkv = nn.Linear(C, C + 2 * narrow)
        self.out = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        narrow, each = self.keys * WIDTH, HEADS // self.keys
        if self.form == "grouped":  # (keys, each q heads + k + v, d)
            y = self.qkv(h).unflatten(-1, (self.keys, each + 2, WIDTH))
            q, k, v = y[..., :each, :].flatten(2, 3).flatten(2), y[..., each, :].flatten(2), y[..., -1, :].flatten(2)
        else:
            split = self.qkv(h).split([C, narrow, narrow], -1) if self.form == "fused" else None
            q, k, v = split or (self.q(h), self.k(h), self.v(h))
        q = heads_of(q)
        k, v = (y.unflatten(-1, (self.keys, WIDTH)).transpose(1, 2).repeat_interleave(each, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.tail(h + self.out(y.transpose(1, 2).flatten(2)))


class Joint(nn.Module):
    """Two streams, one attention (SD3, Flux); the second stream's projections fused."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.context_in = nn.Linear(12, C)
        self.qkv, self.added = nn.Linear(C, 3 * C), nn.Linear(C, 3 * C)
        self.out = nn.Linear(C, C)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h, c = self.head(x), self.context_in(context)
        own, added = chunked(self.qkv(h)), by_head(self.added(c))
        q, k, v = (torch.cat([b, a], 2) for a, b in zip(own, added, strict=True))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.tail(h + self.out(y[:, c.shape[1] :]))


class WithFeedForward(nn.Module):
    """Flux's single block: q, k, v and the feed-forward's first layer in one."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.all, self.out = nn.Linear(C, 5 * C), nn.Linear(3 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        qkv, rest = self.all(h).split([3 * C, 2 * C], -1)
        y = F.scaled_dot_product_attention(*chunked(qkv)).transpose(1, 2).flatten(2)
        return self.tail(h + self.out(torch.cat([y, F.gelu(rest)], -1)))
