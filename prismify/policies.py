"""Policies: from the facts about a layer to a decision with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import gcd
from typing import Literal, NamedTuple, get_type_hints

from .count import operator_bias, operator_weights
from .errors import PlanError, ShapeError
from .inventory import Layer
from .kernels import Topology
from .layers import Bias, Operator
from .layers.volumes import check_channel_kernel, volumes_of
from .validation import fit


@dataclass(frozen=True)
class Policy:
    """Which layers are replaced, and by what.

    Args:
        name: "paper" replaces inner C->C convolutions and C->C attention projections (Secs. 3.5, 4);
            "volumes" also inner convolutions whose width changes.
        topology: padding of the channel axis (Table 1).
        channel_kernel_size: K along the channels; odd.
        bias: "scalar" or "channel", where the replaced layer has a bias.
        depth: channels of a volume under "volumes"; None takes the greatest common divisor of the widths.
        feed_forward: under "volumes", also inner linear layers that are no attention projections.
        min_width: layers narrower than this are kept.
        min_volume: layers that would split into volumes narrower than this are kept.
        include, exclude: patterns over qualified names (`*` and `?`); only included and no excluded
            layers are replaced.
        convolution: what takes the place of spatial C->C convolutions, "DeepPrism" or "PrismConv".

    Raises:
        PlanError: a field has no such value.
    """

    name: Literal["paper", "volumes"] = "paper"
    topology: Topology = "zero"
    channel_kernel_size: int = 3
    bias: Bias = "scalar"
    depth: int | None = None
    feed_forward: bool = False
    min_width: int = 8
    min_volume: int = 16
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    convolution: Literal["DeepPrism", "PrismConv"] = "DeepPrism"

    def __post_init__(self) -> None:
        hints = get_type_hints(Policy)
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, fit(getattr(self, field.name), hints[field.name], field.name))
        if self.channel_kernel_size < 1 or self.channel_kernel_size % 2 == 0:
            raise PlanError(f"channel kernel size {self.channel_kernel_size} must be odd and positive")
        if self.name == "paper" and (self.depth is not None or self.feed_forward):
            raise PlanError("depth and feed-forward belong to policy 'volumes': add --policy volumes")
        if self.depth is not None and self.depth < 1:
            raise PlanError(f"depth {self.depth} must be a positive number of channels")


class Verdict(NamedTuple):
    """A decision about one layer: the operator that takes its place, or None to keep it."""

    operator: Operator | None
    rule: str
    reason: str


def decide(layer: Layer, policy: Policy) -> Verdict:
    """What `policy` makes of one layer."""
    if layer.role in _KEPT_ROLES:
        return Verdict(None, *_kept_role(layer))
    if layer.obstacle is not None:
        return Verdict(None, "unsupported", layer.obstacle)
    if policy.include and not _matches(layer.name, policy.include):
        return Verdict(None, "not_included", "matches no --include pattern")
    if _matches(layer.name, policy.exclude):
        return Verdict(None, "excluded", "matches an --exclude pattern")
    if layer.attention is not None:
        return _attention(layer, policy)
    if layer.role == "cond":
        return Verdict(None, "conditioning", "does not descend from the data (time, class or text)")
    if layer.kind == "linear":
        return _linear(layer, policy)
    return _convolution(layer, policy)


def check_patterns(names: list[str], policy: Policy) -> None:
    """Raise PlanError for an include or exclude pattern that matches no layer: it is a slip of the pen."""
    for option in ("include", "exclude"):
        for pattern in getattr(policy, option):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise PlanError(f"--{option} {pattern!r} matches no layer; names look like {names[0]!r}")


_KEPT_ROLES = {"input", "output", "input+output", "dead", "unknown"}


def _kept_role(layer: Layer) -> tuple[str, str]:
    if layer.role == "unknown":
        return (
            "unknown",
            "no captured method shows it, so its role is not known: give --input, or edit the plan by hand",
        )
    if layer.role == "dead":
        if layer.calls == 0:
            return "unreached", "never called by the captured methods"
        return "dead", "what it computes reaches no output"
    text = {
        "input": "input layer: nothing stands between it and the data",
        "output": "output layer: nothing stands between it and the result",
        "input+output": "input and output layer",
    }[layer.role]
    return "input_output", text


def _attention(layer: Layer, policy: Policy) -> Verdict:
    assert layer.attention is not None
    parts = layer.attention.parts
    what = f"{layer.attention.kind}-attention {', '.join(parts)} projection"
    if len(parts) > 1:
        return Verdict(None, "fused_attention", f"{what}: fused in one {_widths(layer)} layer")
    if layer.in_channels != layer.out_channels:
        return Verdict(None, "attention_width", f"{what}: {_widths(layer)} is not C->C")
    return _replace(layer, policy, f"inner C->C {what}")


def _linear(layer: Layer, policy: Policy) -> Verdict:
    if policy.name == "paper":
        return Verdict(None, "linear", "linear layer outside attention: policy paper keeps it")
    if not policy.feed_forward:
        return Verdict(None, "linear", "linear layer outside attention: --feed-forward replaces it")
    return _replace(layer, policy, f"inner {_widths(layer)} linear layer")


def _convolution(layer: Layer, policy: Policy) -> Verdict:
    if layer.in_channels == layer.out_channels:
        return _replace(layer, policy, "inner C->C convolution")
    if policy.name == "paper":
        return Verdict(None, "width_changes", "inner C->C' convolution: policy volumes replaces it")
    return _replace(layer, policy, "inner C->C' convolution, by volumes")


def _replace(layer: Layer, policy: Policy, reason: str) -> Verdict:
    """The operator for a layer that the policy wants replaced, unless it is too narrow for one."""
    if min(layer.in_channels, layer.out_channels) < policy.min_width:
        return Verdict(None, "narrow", f"{_widths(layer)} is narrower than {policy.min_width} channels")
    depth = policy.depth if policy.name == "volumes" and policy.depth else gcd(layer.in_channels, layer.out_channels)
    try:
        volumes = volumes_of(layer.in_channels, layer.out_channels, depth)
        check_channel_kernel(policy.channel_kernel_size, depth)
    except ShapeError as error:
        return Verdict(None, "volumes", str(error))
    if volumes != (1, 1) and depth < policy.min_volume:
        return Verdict(
            None,
            "narrow_volumes",
            f"{_widths(layer)} has volumes of {depth}, narrower than {policy.min_volume}",
        )
    operator = Operator(
        type="Prism" if layer.pointwise else policy.convolution if volumes == (1, 1) else "DeepPrism",
        volumes=volumes,
        channel_kernel_size=policy.channel_kernel_size,
        topology=policy.topology,
        bias=policy.bias,
    )
    after = operator_weights(operator, layer.kernel_size)
    after += operator_bias(operator, layer.out_channels) if layer.bias else 0
    if after >= layer.parameters and not layer.tied:
        return Verdict(
            None, "no_gain", f"{operator.type} would need {after:,} numbers where it has {layer.parameters:,}"
        )
    if layer.partial:
        reason += f"; on some paths it is the first {' and last '.join(layer.partial)} layer"
    return Verdict(operator, "replaced", reason)


def _widths(layer: Layer) -> str:
    return f"{layer.in_channels}->{layer.out_channels}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
