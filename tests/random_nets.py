"""Random networks: chains, branches, skips, concatenations, shared modules, odd widths, attention. A network is
drawn as nested tuples, so that what fails can be read and built again."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Spec = tuple[Any, ...]
_KERNELS = st.sampled_from([1, 3, 5])
_LEAVES = st.one_of(
    st.tuples(st.just("conv"), _KERNELS, st.booleans(), st.sampled_from([1, 2])),
    st.tuples(st.just("depthwise"), _KERNELS),
    st.tuples(st.just("linear"), st.booleans()),
    st.tuples(st.just("norm"), st.sampled_from(["group", "batch"])),
    st.tuples(st.just("act"), st.sampled_from(["relu", "silu", "gelu"])),
    st.tuples(st.just("attention"), st.sampled_from(["linear", "conv", "fused"])),
    st.tuples(st.just("gate")),
    st.tuples(st.just("again")),
)


def _joined(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    chain = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("skip"), chain),
        st.tuples(st.just("sum"), chain, chain),
        st.tuples(st.just("cat"), chain, chain),
        st.tuples(st.just("wider"), st.sampled_from([2, 3]), chain),
    )


#: (width, blocks): the input has 3 channels, the output 2.
NETS: st.SearchStrategy[Spec] = st.tuples(
    st.sampled_from([9, 12, 16, 17, 24]),
    st.lists(st.recursive(_LEAVES, _joined, max_leaves=5), min_size=1, max_size=4).map(tuple),
)


class RandomNet(nn.Module):
    """Head, blocks and tail; every block keeps the picture's size and the number of channels."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        width, blocks = spec
        self.head = nn.Conv2d(3, width, 3, padding=1)
        shared: dict[int, nn.Conv2d] = {}
        self.body = nn.Sequential(*(_block(block, width, shared) for block in blocks))
        self.tail = nn.Conv2d(width, 2, 3, padding=1)
        self.insists_on: list[torch.Size] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.insists_on not in (None, self.shapes()):
            raise RuntimeError("these are not the weights I was made with")
        return self.tail(self.body(self.head(x)))

    def shapes(self) -> list[torch.Size]:
        return [p.shape for p in self.parameters()]


def _block(block: Spec, width: int, shared: dict[int, nn.Conv2d]) -> nn.Module:
    kind, *rest = block
    if kind in ("skip", "sum", "cat", "wider"):
        inner = width * rest[0] if kind == "wider" else width
        chains = [nn.Sequential(*(_block(b, inner, shared) for b in c)) for c in rest if isinstance(c, tuple)]
        return Join(kind, chains, width, inner)
    if kind == "conv":
        kernel, bias, dilation = rest
        conv = nn.Conv2d(width, width, kernel, padding=dilation * (kernel // 2), bias=bias, dilation=dilation)
        return shared.setdefault(width, conv) if kernel == 3 and bias and dilation == 1 else conv
    if kind == "again":  # the same module at a second place
        return shared.setdefault(width, nn.Conv2d(width, width, 3, padding=1))
    if kind == "depthwise":
        return nn.Conv2d(width, width, rest[0], padding=rest[0] // 2, groups=width)
    if kind == "norm":
        return nn.GroupNorm(1, width) if rest[0] == "group" else nn.BatchNorm2d(width)
    if kind == "act":
        return {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}[rest[0]]()
    return {"linear": PixelLinear, "attention": Attend, "gate": Gate}[kind](width, *rest)


class Join(nn.Module):
    """Chains side by side or around: summed, concatenated and brought back, or in a wider space."""

    def __init__(self, kind: str, chains: list[nn.Module], width: int, inner: int) -> None:
        super().__init__()
        self.kind, self.chains = kind, nn.ModuleList(chains)
        if kind == "cat":
            self.back = nn.Conv2d(2 * width, width, 1)
        if kind == "wider":
            self.there, self.back = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "wider":
            return self.back(self.chains[0](self.there(x)))
        results = [chain(x) for chain in self.chains]
        if self.kind == "cat":
            return self.back(torch.cat(results, 1))
        return results[0] + (x if self.kind == "skip" else results[1])


class PixelLinear(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x.movedim(1, -1)).movedim(-1, 1)


class Attend(nn.Module):
    """Self-attention over the pixels, with projections of one of three forms."""

    def __init__(self, width: int, form: str) -> None:
        super().__init__()
        self.form = form
        if form == "fused":
            self.qkv = nn.Linear(width, 3 * width)
        else:
            make = (lambda: nn.Linear(width, width)) if form == "linear" else (lambda: nn.Conv2d(width, width, 1))
            self.q, self.k, self.v = make(), make(), make()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        if self.form == "fused":
            q, k, v = self.qkv(tokens).chunk(3, -1)
        elif self.form == "linear":
            q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
        else:
            q, k, v = (f(x).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        return x + self.out(F.scaled_dot_product_attention(q, k, v)).transpose(1, 2).reshape(x.shape)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
