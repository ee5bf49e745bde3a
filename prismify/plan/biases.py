"""New biases of one number that what follows takes away again, as a norm does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..facts import Layer
from .policy import Policy, Verdict


def without_idle_biases(layers: Iterable[Layer], verdicts: dict[str, Verdict], policy: Policy) -> dict[str, Verdict]:
    """Leave out each new bias of one number that what follows takes away again, as a norm does; tied layers alike.

    Policy "paper" makes those in front of group norms, as Table 3 counts them.
    """
    found = {layer.name: layer for layer in layers}
    idle = {
        name
        for name, layer in found.items()
        if _is_idle(layer, verdicts[name]) and not (policy.name == "paper" and "group_norm" in layer.removed_by)
    }
    while apart := {name for name in idle if not idle.issuperset(found[name].tied)}:
        idle -= apart
    settled = dict(verdicts)
    for name in idle:
        verdict = verdicts[name]
        assert verdict.operator is not None
        reason = verdict.reason
        if found[name].bias:
            reason += f"; without a bias, whose one number {' and '.join(found[name].removed_by)} would take away again"
        settled[name] = verdict._replace(operator=replace(verdict.operator, bias="none"), reason=reason)
    return settled


def idle_biases(layers: Iterable[Layer], verdicts: dict[str, Verdict]) -> list[str]:
    """The layers whose new bias is made although it has no effect."""
    return [layer.name for layer in layers if layer.bias and _is_idle(layer, verdicts[layer.name])]


def _is_idle(layer: Layer, verdict: Verdict) -> bool:
    """Whether a replacement's bias is one number for all of its output that has no effect, or there is none."""
    operator = verdict.operator
    if operator is None or operator.by_options or operator.type == "PrismMultihead":
        return False
    if operator.bias != "scalar" or operator.volumes[1] != 1:
        return False
    return bool(layer.removed_by) if layer.bias else bool(layer.tied)
