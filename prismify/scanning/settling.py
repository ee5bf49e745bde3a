"""Decisions that depend on more than a layer's own facts: what an operator refuses, and layers that change together."""

from __future__ import annotations

import dataclasses

from torch import nn

from ..errors import ShapeError
from ..facts import Inventory, Layer, is_layer
from ..facts.count import Counted, count_operator
from ..facts.own import count_own
from ..layers import Operator
from ..layers.operator import refusal
from ..plan import Verdict
from ..plan.narrowing import NARROW, count_narrow


def counted(operator: Operator, layer: Layer, modules: dict[str, nn.Module]) -> Counted:
    """The numbers and multiply-adds of an operator in a layer's place.

    Raises:
        ShapeError: it cannot take that place.
    """
    if operator.type == NARROW:
        return count_narrow(operator, layer)
    if not operator.by_options:
        return count_operator(operator, layer.work)
    module = modules.get(layer.name)
    return count_own(operator, layer, module if is_layer(module) else None)


def settle_refused(model: nn.Module, found: Inventory, verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    """What the operator's own constructor refuses is kept, or becomes the general form where that takes it."""
    modules = dict(model.named_modules())
    settled = dict(verdicts)
    for facts in found.layers:
        if (operator := verdicts[facts.name].operator) is not None and operator.by_options:
            try:
                count = counted(operator, facts, modules)
            except ShapeError as error:
                settled[facts.name] = Verdict(None, "unsupported", str(error))
                continue
            after = count.weights + count.biases
            if after >= facts.parameters and not facts.tied and not operator.is_own:
                text = f"{operator.type} would need {after:,} numbers where it has {facts.parameters:,}"
                settled[facts.name] = Verdict(None, "no_gain", text)
    for name, verdict in list(settled.items()):
        layer = modules.get(name)
        if verdict.operator is None or layer is None or isinstance(layer, nn.MultiheadAttention) or not is_layer(layer):
            continue
        if (reason := refusal(verdict.operator, layer)) is None:
            continue
        general = dataclasses.replace(verdict.operator, type="DeepPrism")
        if verdict.operator.type == "PrismConv" and refusal(general, layer) is None:
            settled[name] = Verdict(general, verdict.rule, f"{verdict.reason}; a DeepPrism: {reason}")
        else:
            settled[name] = Verdict(None, "unsupported", reason)
    return settled


def settle_tied(found: Inventory, verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    """Layers that share a weight change together, to the same operator, or not at all."""
    for layer in found.layers:
        if not layer.tied or verdicts[layer.name].operator is None:
            continue
        for other in layer.tied:
            same = other in verdicts and verdicts[other].operator == verdicts[layer.name].operator
            if not same:
                holder = other or "the model itself"
                reason = f"it shares a weight or bias with {holder}, which does not change in the same way"
                verdicts[layer.name] = Verdict(None, "tied", reason)
                return settle_tied(found, verdicts)
    return verdicts


def settle_within(found: Inventory, verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    """The output projection of a packed attention, which never calls it, changes only where the attention does."""
    alone = [layer.name for layer in found.layers if left_alone(layer, verdicts)]
    reason = "nn.MultiheadAttention applies it without calling it, and stays"
    return {**verdicts, **{name: Verdict(None, "within", reason) for name in alone}}


def left_alone(layer: Layer, verdicts: dict[str, Verdict]) -> bool:
    """Whether a packed attention would stay around an output projection that is replaced."""
    if layer.within is None or verdicts[layer.name].operator is None:
        return False
    return layer.within not in verdicts or verdicts[layer.within].operator is None
