"""The UNets and the autoencoder of latent diffusion (Rombach et al. 2022) and guided diffusion (Dhariwal and Nichol
2021), with the names and the forms of attention that their checkpoints have."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width // 2), width)


def timestep_embedding(time: Tensor, width: int) -> Tensor:
    """Sines and cosines, shape (B, width)."""
    rates = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
    angles = time[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with the time added or as scale and shift between."""

    def __init__(self, wide: int, time: int, narrow: int, scale_shift: bool = False) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(_norm(wide), nn.SiLU(), nn.Conv2d(wide, narrow, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, narrow * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            _norm(narrow), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(narrow, narrow, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(wide, narrow, 1) if wide != narrow else nn.Identity()
        self.scale_shift = scale_shift

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h, told = self.in_layers(x), self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention with one Conv1d for q, k and v, whose channels are ordered in one of two ways.

    "legacy": heads outside, (head, q|k|v, channel). "new": heads inside, (q|k|v, head, channel).
    """

    def __init__(self, width: int, heads: int, order: Literal["legacy", "new"]) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj_out = _norm(width), nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)
        self.heads, self.order = heads, order

    def forward(self, x: Tensor) -> Tensor:
        batch, width, *spatial = x.shape
        qkv = self.qkv(self.norm(x).reshape(batch, width, -1))
        depth = width // self.heads
        if self.order == "legacy":
            q, k, v = qkv.reshape(batch * self.heads, 3 * depth, -1).split(depth, dim=1)
        else:
            q, k, v = (part.reshape(batch * self.heads, depth, -1) for part in qkv.chunk(3, dim=1))
        scale = depth**-0.25
        weights = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(batch, width, -1)
        return x + self.proj_out(h).reshape(batch, width, *spatial)


class CrossAttention(nn.Module):
    """Multi-head attention with separate projections; of the tokens themselves where there is no context."""

    def __init__(self, width: int, context: int | None, heads: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context or width, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))
        self.heads = heads

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        return self.to_out(torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2).flatten(2))


class _GEGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class SpatialTransformer(nn.Module):
    """1x1 in, self-attention, cross-attention, gated feed-forward, 1x1 out, and around it all the residual."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.attn1, self.attn2 = CrossAttention(width, None, heads), CrossAttention(width, context, heads)
        self.ff = nn.Sequential(_GEGLU(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        h = h + self.attn1(self.norm1(h))
        h = h + self.attn2(self.norm2(h), context)
        h = h + self.ff(self.norm3(h))
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class _Sequence(nn.Sequential):
    """Each layer gets what it takes."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                assert context is not None
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """The UNet of both: `context_dim` makes it latent diffusion's, without it is guided diffusion's.

    Args:
        attention: which levels have attention.
        order: of the channels of a Conv1d's q, k and v; see `AttentionBlock`.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        model_channels: int = 320,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attention: tuple[int, ...] = (0, 1, 2),
        num_heads: int = 8,
        context_dim: int | None = 768,
        num_classes: int | None = None,
        order: Literal["legacy", "new"] = "legacy",
        scale_shift: bool = False,
    ) -> None:
        super().__init__()
        self.model_channels, self.num_classes = model_channels, num_classes
        time = 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, time), nn.SiLU(), nn.Linear(time, time))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, time)

        def attend(width: int) -> nn.Module:
            if context_dim is None:
                return AttentionBlock(width, num_heads, order)
            return SpatialTransformer(width, num_heads, context_dim)

        width = model_channels
        self.input_blocks = nn.ModuleList([_Sequence(nn.Conv2d(in_channels, width, 3, padding=1))])
        widths = [width]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, time, mult * model_channels, scale_shift)]
                width = mult * model_channels
                self.input_blocks.append(_Sequence(*layers, *([attend(width)] if level in attention else [])))
                widths.append(width)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(_Sequence(Downsample(width)))
                widths.append(width)
        self.middle_block = _Sequence(
            ResBlock(width, time, width, scale_shift), attend(width), ResBlock(width, time, width, scale_shift)
        )
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for index in range(num_res_blocks + 1):
                layers = [ResBlock(width + widths.pop(), time, mult * model_channels, scale_shift)]
                width = mult * model_channels
                layers += [attend(width)] if level in attention else []
                layers += [Upsample(width)] if level and index == num_res_blocks else []
                self.output_blocks.append(_Sequence(*layers))
        self.out = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        assert timesteps is not None
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        if self.num_classes is not None:
            emb = emb + self.label_emb(y)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), emb, context)
        return self.out(x)


class _ResnetBlock(nn.Module):
    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(wide), nn.Conv2d(wide, narrow, 3, padding=1)
        self.norm2, self.conv2 = _norm(narrow), nn.Conv2d(narrow, narrow, 3, padding=1)
        if wide != narrow:
            self.nin_shortcut = nn.Conv2d(wide, narrow, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _AttnBlock(nn.Module):
    """Single-head attention with 1x1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2) for f in (self.q, self.k, self.v))
        weights = (torch.bmm(q.transpose(1, 2), k) * x.shape[1] ** -0.5).softmax(2)
        return x + self.proj_out(torch.bmm(v, weights.transpose(1, 2)).reshape(x.shape))


class _Padded(nn.Module):
    """Stride 2 with padding on two sides only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Half(nn.Module):
    """The parts that encoder and decoder share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mid = nn.ModuleDict(
            {"block_1": _ResnetBlock(width, width), "attn_1": _AttnBlock(width), "block_2": _ResnetBlock(width, width)}
        )

    def middle(self, x: Tensor) -> Tensor:
        for layer in self.mid.values():
            x = layer(x)
        return x


class _Encoder(_Half):
    def __init__(self, channels: int, ch: int, mult: tuple[int, ...], blocks: int, latent: int) -> None:
        super().__init__(ch * mult[-1])
        self.conv_in = nn.Conv2d(channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        width = ch
        for level, m in enumerate(mult):
            layers: list[nn.Module] = []
            for _ in range(blocks):
                layers.append(_ResnetBlock(width, ch * m))
                width = ch * m
            self.down.append(nn.Sequential(*layers, *([_Padded(width)] if level < len(mult) - 1 else [])))
        self.norm_out, self.conv_out = _norm(width), nn.Conv2d(width, 2 * latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class _Decoder(_Half):
    def __init__(self, channels: int, ch: int, mult: tuple[int, ...], blocks: int, latent: int) -> None:
        super().__init__(ch * mult[-1])
        width = ch * mult[-1]
        self.conv_in = nn.Conv2d(latent, width, 3, padding=1)
        self.up = nn.ModuleList()
        for level in reversed(range(len(mult))):
            layers: list[nn.Module] = []
            for _ in range(blocks + 1):
                layers.append(_ResnetBlock(width, ch * mult[level]))
                width = ch * mult[level]
            self.up.append(nn.Sequential(*layers, *([Upsample(width)] if level else [])))
        self.norm_out, self.conv_out = _norm(width), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        z = self.middle(self.conv_in(z))
        for level in self.up:
            z = level(z)
        return self.conv_out(F.silu(self.norm_out(z)))


class AutoencoderKL(nn.Module):
    """CompVis's first stage: `encode` returns the moments, `forward` goes through their mean."""

    def __init__(
        self, channels: int = 3, ch: int = 128, ch_mult: tuple[int, ...] = (1, 2, 4, 4), blocks: int = 2, z: int = 4
    ) -> None:
        super().__init__()
        self.encoder = _Encoder(channels, ch, ch_mult, blocks, z)
        self.decoder = _Decoder(channels, ch, ch_mult, blocks, z)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * z, 2 * z, 1), nn.Conv2d(z, z, 1)

    def encode(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).chunk(2, 1)[0])
