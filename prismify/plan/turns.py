"""What a layer's decision takes from its place among the others: channel dilation, 1, 2, 4, ... in turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..facts import Layer
from .policy import Policy, Verdict


def dilated_in_turn(layers: Iterable[Layer], verdicts: dict[str, Verdict], policy: Policy) -> dict[str, Verdict]:
    """Give the DeepPrisms of each depth the channel dilations 1, 2, 4, ... in turn, in the order of the layers.

    After log2 of the depth such layers every channel has met every other of its volume. What is tied to another layer,
    or transposed, keeps 1.
    """
    if not policy.channel_dilation:
        return verdicts
    settled, turns = dict(verdicts), dict[int, int]()
    for layer in layers:
        verdict = verdicts[layer.name]
        operator = verdict.operator
        if operator is None or operator.type != "DeepPrism" or layer.tied or layer.kind.startswith("conv_transpose"):
            continue
        depth = layer.out_channels // operator.volumes[1]
        known = dilations(depth, operator.channel_kernel_size)
        turn = turns.get(depth, 0)
        turns[depth] = turn + 1
        chosen = known[turn % len(known)]
        reason = verdict.reason + (f"; on every {chosen}-th channel" if chosen > 1 else "")
        settled[layer.name] = verdict._replace(operator=replace(operator, channel_dilation=chosen), reason=reason)
    return settled


def dilations(depth: int, kernel_size: int) -> list[int]:
    """The powers of two that divide a depth and leave the kernel its neighbours: 1, 2, 4, ..."""
    found = [1]
    while depth % (2 * found[-1]) == 0 and kernel_size <= 2 * (depth // (2 * found[-1])) - 1:
        found.append(2 * found[-1])
    return found
