"""Policies: from the facts about a layer to a decision with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from fnmatch import fnmatchcase
from math import gcd

from ..errors import PlanError, PrismifyError, ShapeError, one_line
from ..facts import Layer
from ..facts.count import count_operator
from ..graph.dataflow import Layout
from ..layers import Operator, OperatorType
from ..layers.volumes import check_channel_kernel, volumes_of
from .policy import OwnPolicy, Policy, Verdict


def decide(layer: Layer, policy: Policy) -> Verdict:
    """What `policy` makes of one layer. Where its role is not known, a person may name it: `include` makes it inner."""
    if layer.role == "unknown" and layer.by_chance:
        return Verdict(None, "by_chance", _BY_CHANCE)
    if layer.role == "unknown" and _matches(layer.name, policy.include):
        verdict = decide(dataclasses.replace(layer, role="inner"), policy)
        return verdict._replace(reason=f"{verdict.reason}; taken for inner by --include, its role is not known")
    if layer.role in _KEPT_ROLES:
        return Verdict(None, *_kept_role(layer))
    if layer.obstacle is not None:
        return Verdict(None, "unsupported", layer.obstacle)
    if policy.include and not _matches(layer.name, policy.include):
        return Verdict(None, "not_included", "matches no --include pattern")
    if _matches(layer.name, policy.exclude):
        return Verdict(None, "excluded", "matches an --exclude pattern")
    if layer.kind == "attention":
        return _multihead(layer, policy)
    if layer.attention is not None:
        return _attention(layer, policy)
    if layer.role == "cond":
        return Verdict(
            None, "conditioning", "does not descend from the data, but from time, class, text, noise or a constant"
        )
    if layer.kind == "linear":
        return _linear(layer, policy)
    return _convolution(layer, policy)


def own_verdict(layer: Layer, policy: OwnPolicy) -> Verdict:
    """What a policy of one's own makes of a layer; a layer that cannot be replaced is kept with that reason.

    Raises:
        PlanError: it failed, or answered something else than a `Verdict`, an `Operator` or None.
    """
    name = policy_name(policy)
    try:
        found = policy(layer)
    except PrismifyError:
        raise
    except Exception as error:  # whatever somebody's function raises
        raise PlanError(f"{layer.name}: policy {name} failed: {one_line(error)}") from error
    if found is None:
        return Verdict(None, "own_policy", f"kept by policy {name}")
    if isinstance(found, Operator):
        found = Verdict(found, "replaced", f"replaced by policy {name}")
    if not isinstance(found, Verdict):
        raise PlanError(
            f"{layer.name}: policy {name} answered a {type(found).__name__}: give a Verdict, an Operator or None"
        )
    if found.operator is None:
        return found
    if layer.obstacle is not None:
        return Verdict(None, "unsupported", layer.obstacle)
    return found._replace(rule="replaced")


def policy_name(policy: OwnPolicy) -> str:
    """`module:function`, as a plan names it."""
    return f"{getattr(policy, '__module__', '')}:{getattr(policy, '__qualname__', type(policy).__qualname__)}"


def check_patterns(names: list[str], policy: Policy) -> None:
    """Raise PlanError for an include or exclude pattern that matches no layer: it is a slip of the pen."""
    for option in ("include", "exclude", "depths"):
        for pattern in getattr(policy, option):
            if not any(fnmatchcase(name, pattern) for name in names):
                flag = option if option == "depths" else f"--{option}"
                raise PlanError(f"{flag} {pattern!r} matches no layer; names look like {names[0]!r}")


_BY_CHANCE = (
    "the model chooses at random whether it is used, and by chance it was not when it was looked at: make the model "
    "choose by its arguments"
)
_KEPT_ROLES = {"input", "output", "input+output", "dead", "unknown"}


def _kept_role(layer: Layer) -> tuple[str, str]:
    if layer.role == "unknown" and layer.calls:
        return (
            "untraced",
            "it runs, but no tensor leads from the inputs to it and on to a result, so its role is not known: give "
            "inputs that hold tensors, name it by --include, or edit the plan by hand",
        )
    if layer.role == "unknown":
        return (
            "unknown",
            "no captured method shows it, so its role is not known: give --input, name it by --include, or edit the "
            "plan by hand",
        )
    if layer.role == "dead":
        if layer.calls == 0 and layer.bare and layer.obstacle is not None:
            return "unsupported", layer.obstacle
        if layer.calls == 0 and layer.only_training:
            return "unreached", "called in training alone; its role, which evaluation tells, is not known"
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
    part, layout = layer.attention, layer.attention.layout
    what = f"{part.kind}-attention {', '.join(part.parts)} projection"
    what += " (attention without softmax)" if part.linear else ""
    if len(part.parts) > 1 and layout is None:
        missing = f"which of its {layer.out_channels} channels are {', '.join(part.parts)} is not to be told"
        return Verdict(None, "fused_attention", f"{what}: {missing} from the graph, or some are none of them")
    widths = {layer.out_channels} if layout is None else {layout.repeats * width for _, width in layout.pattern}
    if widths == {layer.in_channels}:
        fused = f", fused as {layout}" if layout is not None and len(layout.pattern) > 1 else ""
        return _replace(layer, policy, f"inner C->C {what}{fused}")
    if policy.name == "paper":
        more = replace(policy, name="volumes", context=part.context, feed_forward=part.joined and not part.context)
        option = "policy volumes" + (" with --context" if more.context else " with --feed-forward" * more.feed_forward)
        text = f"{what}: {_widths(layer)} is not C->C: {_under(more, layer, option)}"
        return Verdict(None, "attention_width", text)
    if part.context and not policy.context:
        text = f"{what}: {_widths(layer)} is not C->C and reads the context: "
        return Verdict(None, "attention_width", text + _under(replace(policy, context=True), layer, "--context"))
    if part.joined and not policy.feed_forward:
        text = f"{what}: {_widths(layer)} reads more than the attention makes: "
        return Verdict(
            None, "attention_width", text + _under(replace(policy, feed_forward=True), layer, "--feed-forward")
        )
    return _replace(layer, policy, f"inner C->C' {what}, by volumes" + (f", fused as {layout}" if layout else ""))


def _multihead(layer: Layer, policy: Policy) -> Verdict:
    if policy.operator is not None:
        return Verdict(None, "unsupported", f"{policy.operator} takes the place of no packed attention")
    channels = layer.out_channels
    square = tuple(p.part for p in layer.projections if p.width == channels)
    rest = [p for p in layer.projections if p.width != channels]
    chosen = square + tuple(p.part for p in rest if policy.context)
    kind = f"{layer.attention.kind}-attention " if layer.attention is not None else ""
    reason = f"inner C->C {kind}{', '.join(square)} projections, packed"
    if rest:
        names = ", ".join(f"{p.part} ({p.width}->{channels})" for p in rest)
        reason += f"; {names} by volumes" if policy.context else f"; {names} of the context stay"
    depth = _depth(layer, policy) or gcd(channels, *(p.width for p in layer.projections if p.part in chosen))
    try:
        volumes = volumes_of(channels, channels, depth)
        check_channel_kernel(policy.channel_kernel_size, depth)
        for projection in layer.projections:
            if projection.part in chosen:
                volumes_of(projection.width, channels, depth)
    except ShapeError as error:
        return Verdict(None, "volumes", str(error))
    return _settle(layer, policy, reason, replace(_operator("PrismMultihead", volumes, policy), projections=chosen))


def _linear(layer: Layer, policy: Policy) -> Verdict:
    if policy.name == "paper":
        return Verdict(None, "linear", "linear layer outside attention: policy paper keeps it")
    if not policy.feed_forward:
        other = _under(replace(policy, feed_forward=True), layer, "--feed-forward")
        return Verdict(None, "linear", f"linear layer outside attention: {other}")
    return _replace(layer, policy, f"inner {_widths(layer)} linear layer")


def _convolution(layer: Layer, policy: Policy) -> Verdict:
    if layer.in_channels == layer.out_channels:
        return _replace(layer, policy, "inner C->C convolution")
    if policy.name == "paper":
        other = _under(replace(policy, name="volumes"), layer, "policy volumes")
        return Verdict(None, "width_changes", f"inner C->C' convolution: {other}")
    return _replace(layer, policy, "inner C->C' convolution, by volumes")


def _under(policy: Policy, layer: Layer, option: str) -> str:
    """Whether a wider policy, by the `option` that makes it so, replaces a layer that is kept; why not, where not."""
    found = _replace(layer, policy, "")
    return f"{option} replaces it" if found.operator is not None else f"{option} keeps it too: {found.reason}"


def _replace(layer: Layer, policy: Policy, reason: str) -> Verdict:
    """The operator for a layer that the policy wants replaced, unless it is too narrow for one."""
    if policy.operator is not None:
        if min(layer.in_channels, layer.out_channels) < policy.min_width:
            return Verdict(None, "narrow", f"{_widths(layer)} is narrower than {policy.min_width} channels")
        return Verdict(Operator(policy.operator, options=policy.options), "replaced", reason + _beside(layer))
    wanted = _depth(layer, policy)
    layout = layer.attention.layout if layer.attention is not None else None
    try:
        depth = wanted or gcd(layer.in_channels, layer.out_channels)
        depth = depth if layout is None else _fused_depth(layer, layout, wanted)
        volumes = volumes_of(layer.in_channels, layer.out_channels, depth)
        check_channel_kernel(policy.channel_kernel_size, depth)
    except ShapeError as error:
        return Verdict(None, "volumes", str(error))
    kind: OperatorType = "Prism" if layer.pointwise else "DeepPrism"
    if kind == "DeepPrism" and layer.kind == "conv2d" and volumes == (1, 1):
        kind = policy.convolution
    operator = _operator(kind, volumes, policy)
    return _settle(layer, policy, reason, replace(operator, interleave=1 if layout is None else layout.repeats))


def _depth(layer: Layer, policy: Policy) -> int | None:
    """Channels of a volume that a policy asks for; None for as many as there can be."""
    return next((depth for pattern, depth in policy.depths.items() if fnmatchcase(layer.name, pattern)), policy.depth)


def _operator(kind: OperatorType, volumes: tuple[int, int], policy: Policy) -> Operator:
    return Operator(kind, volumes, policy.channel_kernel_size, policy.topology, policy.bias)


def _settle(layer: Layer, policy: Policy, reason: str, operator: Operator) -> Verdict:
    """`operator`, unless the layer is too narrow for it or would not shrink."""
    if min(layer.in_channels, layer.out_channels) < policy.min_width:
        return Verdict(None, "narrow", f"{_widths(layer)} is narrower than {policy.min_width} channels")
    depth = layer.out_channels // operator.volumes[1]
    if operator.volumes != (1, 1) and depth < policy.min_volume:
        text = f"{_widths(layer)} has volumes of {depth}, narrower than {policy.min_volume}"
        return Verdict(None, "narrow_volumes", text)
    counted = count_operator(operator, layer.work)
    after = counted.weights + (counted.biases if layer.bias else 0)
    if after >= layer.parameters and not layer.tied:
        text = f"{operator.type} would need {after:,} numbers where it has {layer.parameters:,}"
        return Verdict(None, "no_gain", text)
    return Verdict(operator, "replaced", reason + _beside(layer))


def _beside(layer: Layer) -> str:
    """What else a person should know who replaces a layer."""
    text = "; it is frozen (requires_grad=False), and becomes an untrained layer" if layer.frozen else ""
    if layer.partial:
        text += f"; on some paths it is the first {' and last '.join(layer.partial)} layer"
    return text


def _fused_depth(layer: Layer, layout: Layout, wanted: int | None) -> int:
    """Channels a volume, so that every volume belongs to one of q, k and v alone.

    Raises:
        ShapeError: there is no such depth, or `wanted` is none.
    """
    unit = gcd(*(width for _, width in layout.pattern))
    fitting = [layout.repeats * n for n in range(1, unit + 1) if unit % n == 0]
    fitting = [depth for depth in fitting if layer.in_channels % depth == 0]
    if not fitting or wanted not in (None, *fitting):
        asked = f" of {wanted}" if wanted else ""
        raise ShapeError(f"{_widths(layer)} channels that lie as {layout} do not split into volumes{asked}")
    return wanted or fitting[-1]


def _widths(layer: Layer) -> str:
    return f"{layer.in_channels}->{layer.out_channels}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
