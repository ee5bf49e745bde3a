"""Which part every layer plays in a model's attentions, and how q, k and v lie in the channels of a fused one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from torch import nn

from ..graph import Attention, LayerUse
from ..graph.dataflow import Layout, layout_of
from ..graph.dataflow.flow import numel, shape
from ..layers.multihead import PROJECTIONS, Projection


@dataclass(frozen=True)
class AttentionPart:
    """Which part a layer plays in which attention.

    Args:
        block: qualified name of the module that runs the attention.
        kind: "self", "cross", "joint" or "mixed".
        parts: "q", "k", "v", "out"; several for a fused projection.
        linear: the attention has no softmax.
        joined: an output projection that reads something else beside the attention's result (Flux's single
            blocks: their feed-forward's).
        layout: of a fused projection, how the parts lie in its channels; None where that cannot be told.
    """

    block: str
    kind: str
    parts: tuple[str, ...]
    linear: bool = False
    joined: bool = False
    layout: Layout | None = None

    @property
    def context(self) -> bool:
        """Whether it projects what another source than the query's holds."""
        return self.kind != "self" and set(self.parts) <= {"k", "v"}


@dataclass(frozen=True)
class InProjection:
    """One of the projections that an `nn.MultiheadAttention` packs.

    Args:
        part: "q", "k" or "v".
        width: channels it reads.
        output_numel: elements it makes in one pass over the model.
    """

    part: Projection
    width: int
    output_numel: int


def in_projections(module: nn.MultiheadAttention, numel: dict[str, int]) -> tuple[InProjection, ...]:
    """The projections of a packed attention; `numel` says how many elements each weight makes, by its last name."""
    packed = numel.get("in_proj_weight", 0) // 3
    widths = (module.embed_dim, module.kdim, module.vdim)
    return tuple(
        InProjection(part, width, packed or numel.get(f"{part}_proj_weight", 0))
        for part, width in zip(PROJECTIONS, widths, strict=True)
    )


@dataclass
class _Seen:
    """One layer's parts over all attentions, entry points and calls."""

    part: AttentionPart
    channels: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    width: int = 0
    unclear: bool = False


def attention_parts(attentions: Iterable[Attention], name_of: Callable[[LayerUse], str]) -> dict[str, AttentionPart]:
    """The part of each layer that an attention shows, by the layer's name (`name_of` a use)."""
    seen: dict[str, _Seen] = {}
    for attention in attentions:
        played: dict[str, dict[str, None]] = defaultdict(dict)
        joined = set()
        for part, use in attention.parts:
            played[name_of(use)][part] = None
            if part == "out" and numel(use.data) > numel(attention.node):
                joined.add(name_of(use))
        for name, parts in played.items():
            here = AttentionPart(attention.module, attention.kind, tuple(parts), attention.linear, name in joined)
            # What is q, k or v of one attention is not told by being what follows another.
            if name not in seen or seen[name].part.parts == ("out",):
                seen[name] = _Seen(here)
        for use in {use.node: use for part, use in attention.parts if part != "out"}.values():
            name = name_of(use)
            if len(played[name]) > 1:
                _add_channels(seen[name], attention, use)
    return {name: _settled(found) for name, found in seen.items()}


def _add_channels(found: _Seen, attention: Attention, use: LayerUse) -> None:
    width = shape(use.weight)[0]
    found.unclear |= found.width not in (0, width)
    found.width = width
    for part, channels in attention.channels(use).items():
        found.channels[part] |= channels
        found.unclear |= not channels


def _settled(found: _Seen) -> AttentionPart:
    part = found.part
    if found.unclear or not found.channels:
        return part
    everything = set(range(found.width))
    if all(members == everything for members in found.channels.values()):  # shared: k is v
        return replace(part, layout=Layout(1, ((" and ".join(part.parts), found.width),)))
    owners = [[p for p, members in found.channels.items() if c in members] for c in range(found.width)]
    if any(len(owner) != 1 for owner in owners):
        return part
    layout = layout_of([owner[0] for owner in owners])
    return replace(part, layout=layout)
