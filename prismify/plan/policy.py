"""What a policy is told, and what it says: its settings, and a verdict about one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_type_hints

from ..errors import PlanError
from ..facts import Layer
from ..kernels import Topology
from ..layers import Bias, Operator, described_operators
from ..validation import fit


@dataclass(frozen=True)
class Policy:
    """Which layers are replaced, and by what.

    Args:
        name: "paper" replaces inner C->C convolutions and C->C attention projections (Secs. 3.5, 4);
            "volumes" also inner convolutions, and projections within an attention, whose width changes;
            "narrow" leaves layers what they are, with fewer channels between them.
        topology: padding of the channel axis (Table 1).
        channel_kernel_size: K along the channels; odd.
        bias: "scalar" or "channel", where the replaced layer has a bias. A scalar that a norm behind the layer takes
            away again is left out; "paper" has it in front of group norms, where Table 3 counts it.
        depth: channels of a volume under "volumes"; None takes the greatest common divisor of the widths.
        depths: under "volumes", the depth of layers whose name matches a pattern, {"mid_block.*": 8}; the first counts.
        feed_forward: under "volumes", also inner linear layers that are no attention projections.
        context: under "volumes", also the projections of a cross-attention's context that are not C->C.
        min_width: layers narrower than this are kept.
        min_volume: layers that would split into volumes narrower than this are kept.
        include, exclude: patterns over qualified names (`*` and `?`); only included and no excluded
            layers are replaced.
        convolution: what takes the place of spatial C->C convolutions in two dimensions, "DeepPrism" or
            "PrismConv"; the others are DeepPrisms.
        channel_dilation: let DeepPrisms read every channel, every second, every fourth, ... in turn along the model.
        operator: what takes the place of every convolution and linear layer instead: one of `layers.spectrum`, such as
            "LowRank", or a registered one. What it cannot take the place of, and packed attentions, are kept.
        options: its options, as {"rank": 8}.
        share: under "narrow", the share of the channels that is left of every width; half of them by default.
        shares: under "narrow", the share of widths whose name (that of their first maker) matches a pattern,
            {"decoder.18.*": 0.25}; the first counts, and 1 leaves them as they are.
        width: under "narrow", the channels that are left instead, as a number.
        multiple: under "narrow", what the channels left are rounded to a multiple of, where a width has more than that.
            Processors take channels by eight or sixteen: 31 cost what 32 do, and 33 what 40 do.

    Raises:
        PlanError: a field has no such value.
    """

    name: Literal["paper", "volumes", "narrow"] = "paper"
    topology: Topology = "zero"
    channel_kernel_size: int = 3
    bias: Bias = "scalar"
    depth: int | None = None
    depths: dict[str, int] = field(default_factory=dict)
    feed_forward: bool = False
    context: bool = False
    min_width: int = 8
    min_volume: int = 16
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    convolution: Literal["DeepPrism", "PrismConv"] = "DeepPrism"
    channel_dilation: bool = False
    operator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    share: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    width: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        hints = get_type_hints(Policy)
        for name in (own.name for own in dataclasses.fields(self)):
            where = "policy" if name == "name" else name
            object.__setattr__(self, name, fit(getattr(self, name), hints[name], where))
        if self.channel_kernel_size < 1 or self.channel_kernel_size % 2 == 0:
            raise PlanError(f"channel kernel size {self.channel_kernel_size} must be odd and positive")
        if self.name != "volumes" and (self.depth is not None or self.depths or self.feed_forward or self.context):
            raise PlanError("depth, feed-forward and context belong to policy 'volumes': add --policy volumes")
        for name in ("min_width", "min_volume"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name} {getattr(self, name)} must not be negative")
        for depth in (*self.depths.values(), *(() if self.depth is None else (self.depth,))):
            if depth < 1:
                raise PlanError(f"depth {depth} must be a positive number of channels")
        if self.operator is not None and self.operator not in described_operators():
            known = ", ".join(described_operators())
            raise PlanError(f"operator {self.operator!r} is not one of {known}")
        own = (self.share, self.width, self.shares or None, None if self.multiple == 1 else self.multiple)
        if self.name != "narrow" and any(value is not None for value in own):
            raise PlanError("share, width and multiple belong to policy 'narrow': add --policy narrow")
        if self.name == "narrow" and (self.operator is not None or self.channel_dilation):
            raise PlanError("policy 'narrow' leaves layers what they are: drop operator and channel dilation")
        if self.share is not None and (self.width is not None or not 0 < self.share < 1):
            raise PlanError(f"share {self.share:g} must be between 0 and 1, and width is not given beside it")
        for pattern, share in self.shares.items():
            if not 0 < share <= 1:
                raise PlanError(f"share {share:g} of {pattern!r} must be above 0 and at most 1")
        for name, channels in (("width", self.width), ("multiple", self.multiple)):
            if channels is not None and channels < 1:
                raise PlanError(f"{name} {channels} must be a positive number of channels")
        if self.options and self.operator is None:
            raise PlanError(f"{', '.join(self.options)}: options of no operator; name it, as operator LowRank")


class Verdict(NamedTuple):
    """A decision about one layer: the operator that takes its place, or None to keep it."""

    operator: Operator | None
    rule: str
    reason: str


#: A policy of one's own: from the facts about a layer to a verdict, an operator in its place, or None to keep it.
OwnPolicy = Callable[[Layer], Verdict | Operator | None]
