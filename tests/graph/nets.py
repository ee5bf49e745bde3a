"""Small networks, each with one thing that has led tracers astray."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

C = 16


def conv(a: int = C, b: int = C, k: int = 3, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, padding=k // 2, **kwargs)


class Chain(nn.Module):
    """in -> inner -> inner -> out."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.body = nn.Sequential(conv(), nn.ReLU(), conv())

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x)))


class NoGrad(Chain):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class WholeResidual(Chain):
    """DnCNN: the input is added to what the network returns."""

    def forward(self, x: Tensor) -> Tensor:
        return x - super().forward(x)


class WritesThroughViews(Chain):
    """Half of a buffer is filled in place, by a view."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        joined = torch.zeros_like(h)
        joined[:, : C // 2].copy_(self.body[0](h)[:, : C // 2])
        joined[:, C // 2 :] = h[:, C // 2 :]
        return self.tail(self.body[2](joined))


class ResidualStream(nn.Module):
    """Every block writes to one stream: only the last layer is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.blocks = nn.ModuleList(conv() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        for block in self.blocks:
            h = h + block(F.silu(h))
        return self.tail(h)


class Shared(nn.Module):
    """One module called three times, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.first = conv()
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.again(self.first(self.first(self.head(x)))))


class Tied(nn.Module):
    """Two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.one, self.two = conv(), conv()
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.two(F.relu(self.one(self.head(x)))))


class SharedAtTheEnd(nn.Module):
    """A module that is inner at its first call and output at its second."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.both = conv(3), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.both(F.relu(self.both(self.head(x))))


class Timed(nn.Module):
    """A time embedding, added before the first convolution and inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(1, C), nn.SiLU(), nn.Linear(C, C))
        self.early = nn.Linear(C, 3)
        self.head, self.body, self.tail = conv(3), conv(), conv(C, 3)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        t = self.embed(timestep[:, None])
        h = self.head(x + self.early(t)[:, :, None, None])
        return self.tail(self.body(h + t[:, :, None, None]))


class GatedEnd(nn.Module):
    """Squeeze-and-excite after the last convolution: its layers are gates: neither outputs nor unused."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.tail = conv(3), conv(), conv(C, 3)
        self.squeeze, self.excite = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tail(self.body(self.head(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return y * gate[:, :, None, None]


class LateConcatenation(nn.Module):
    """The input is concatenated again before the last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = conv(3), conv()
        self.join, self.tail = conv(C + 3, C), conv(C, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.join(torch.cat([self.body(self.head(x)), x], 1)))


class Parametrised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.spectral, self.weighted = spectral_norm(conv()), weight_norm(conv())
        self.plain = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.plain(self.weighted(self.spectral(self.head(x)))))


class Unreached(Chain):
    """A layer nobody calls, and one whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten, self.ignored = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        self.ignored(self.head(x))
        return super().forward(x)


class Asymmetric(Chain):
    """diffusers' downsampling: F.pad outside, stride 2 and no padding inside."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(C, C, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.down(F.pad(self.body(self.head(x)), (0, 1, 0, 1))))


class Modulated(nn.Module):
    """StyleGAN2: a constant input, and weights that a style scales."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, C, 4, 4))
        self.mapping = nn.Sequential(nn.Linear(8, C), nn.ReLU(), nn.Linear(C, C))
        self.weight = nn.Parameter(torch.randn(C, C, 3, 3))
        self.tail = conv(C, 3)

    def forward(self, z: Tensor) -> Tensor:
        style = self.mapping(z)
        weight = self.weight[None] * style[:, None, :, None, None]
        h = F.conv2d(self.constant.expand(z.shape[0], -1, -1, -1), weight[0], padding=1)
        return self.tail(h)


class LoRA(nn.Module):
    """A frozen layer with a low-rank pair beside it, as adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.base, self.down, self.up = nn.Linear(C, C), nn.Linear(C, 2), nn.Linear(2, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        return self.tail(self.base(h) + self.up(self.down(h)))


class DataDependent(Chain):
    """Control flow on values: no fake tensor can follow it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        h = self.body(h) if float(h.detach().mean()) > -1e9 else h
        return self.tail(h)


class ThroughNumpy(Chain):
    def forward(self, x: Tensor) -> Tensor:
        scale = torch.from_numpy(x.detach().abs().mean().numpy()[None])
        return super().forward(x) * scale


class Caching(Chain):
    """Keeps tensors as attributes, as rotary tables and video feature maps are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.history: list[Tensor] = []
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.ones(x.shape[-1])
        self.history.append(x)
        self.count += 1
        return super().forward(x) * self.table


class Autoencoder(nn.Module):
    """In a full pass quant and post_quant are inner; by themselves they are output and input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3), conv(), conv(C, C))
        self.quant, self.post_quant = conv(C, C, 1), conv(C, C, 1)
        self.decoder = nn.Sequential(conv(), conv(C, 3))

    def encode(self, x: Tensor) -> Tensor:
        return self.quant(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant(z))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class FunctionalWeight(nn.Module):
    """Weights handed to F.conv2d, and a layer whose weight is used behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3), conv(C, 3)
        self.kernel = nn.Parameter(torch.randn(C, C, 3, 3))
        self.borrowed = conv()

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(self.head(x), self.kernel, padding=1)
        return self.tail(F.conv2d(h, self.borrowed.weight, padding=1))


class Attention(nn.Module):
    """Self- and cross-attention with separate projections, the product spelt out or in one operator."""

    def __init__(self, fused_operator: bool, context: int | None = None) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.q, self.k, self.v, self.out = (nn.Linear(C if context is None else n, C) for n in (C, context, context, C))
        self.fused_operator = fused_operator

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.head(x)
        source = h if context is None else context
        q, k, v = (
            p(s).unflatten(-1, (2, -1)).transpose(1, 2) for p, s in ((self.q, h), (self.k, source), (self.v, source))
        )
        if self.fused_operator:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1) @ v
        return self.tail(h + self.out(y.transpose(1, 2).flatten(2)))


class MergesWhenEvaluated(Chain):
    """An adapter that folds itself into the weight when the mode changes (loralib)."""

    def train(self, mode: bool = True) -> nn.Module:
        if not mode:
            self.head.weight.data.add_(1.0)
        return super().train(mode)


class RegistersOnFirstCall(Chain):
    """A buffer, a layer and a helper object that come into being, or change, in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = type("Memory", (), {})()
        self.nested = {"tables": []}

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(1, 1, *x.shape[-2:]))
            self.late = nn.Identity()
        self.memory.last = x
        self.nested["tables"].append(x)
        return super().forward(x * self.mask)


class WritesItsWeights(DataDependent):
    """Normalises a weight, reassigns a buffer and changes its input in place, on real tensors only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ema", torch.zeros(C))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.norm())
            self.ema = 0.9 * self.ema + self.head(x).mean((0, 2, 3))
        return super().forward(x.mul_(2))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.tail = nn.Embedding(11, C), nn.Linear(C, C), nn.Linear(C, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tail(self.body(self.embed(tokens)))


class WritesInto(Chain):
    """Writes through `out=`."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.head(x))
        filled = torch.empty_like(h)
        torch.add(h, 0, out=filled)
        return self.tail(filled)


class DrawsItsInput(Chain):
    def forward(self) -> Tensor:
        return super().forward(torch.randn(1, 3, 8, 8))


class ResultFromNumbers(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(super().forward(x).tolist())


class Block(nn.Module):
    """A transformer block; without an output projection its values join the stream directly."""

    def __init__(self, project: bool) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(C), nn.ModuleList(nn.Linear(C, C) for _ in range(3))
        self.out = nn.Linear(C, C) if project else nn.Identity()
        self.ff1, self.ff2 = nn.Linear(C, C), nn.Linear(C, C)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (p(self.norm(h)) for p in self.qkv)
        scores = (q @ k.mT).masked_fill_(torch.ones(q.shape[1], q.shape[1]).triu(1).bool(), -1e9)
        h = h + self.out(scores.softmax(-1) @ v)
        return h + self.ff2(F.gelu(self.ff1(self.norm(h))))


class Blocks(nn.Module):
    def __init__(self, project: bool) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(3, C), nn.Linear(C, 3)
        self.blocks = nn.Sequential(Block(project), Block(project))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.blocks(self.head(x)))


@functools.lru_cache(maxsize=2)
def _positions(size: int) -> torch.Tensor:
    return torch.linspace(0, 1, size)


def _memoised(function):
    """A cache behind a decorator's own function."""
    cached = functools.lru_cache(maxsize=2)(function)

    def inner(*args):
        return cached(*args)

    return inner


class Memoised(Chain):
    """Keeps tables of positions in the caches of a function and of a method."""

    def forward(self, x):
        return super().forward(x + _positions(x.shape[-1]) * self.scale(x.shape[-2]))

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def scale(self, size):
        return torch.ones(size, 1) * self.half()

    @_memoised
    def half(self):
        return torch.full((1,), 0.5)


class CutsByMask(Chain):
    """As text encoders do: the mask's sum cuts, its positions pick."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        (length,) = mask.sum(1).tolist()
        positions = torch.nonzero(mask.flatten()).flatten()
        if len(positions) != length:
            raise ValueError("the mask has gaps")
        return super().forward(x[..., positions][..., :length][..., mask.bool()[0, :length]])


class CutsByWrittenMask(Chain):
    """Begins with a known mask, and writes what nobody knows into it."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(4, dtype=torch.long)
        mask[:2] = (self.head(x).mean() > 0).long()
        return super().forward(x[..., : int(mask.sum())])


class Picky(Chain):
    """Takes what nobody would guess."""

    def forward(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        if not isinstance(size, tuple):
            raise TypeError("size is two numbers")
        return super().forward(F.interpolate(picture, size=size))
