"""What policy narrow asks of the model itself: whether it runs with fewer channels; and rows for the norms along."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from torch import nn

from ..facts import Inventory
from ..facts.trial import culprits, fails_with
from ..facts.widths import norm_facts
from ..graph import Capture
from ..graph.dataflow import Widths
from ..plan import Policy
from ..plan.narrowing import narrowed


def uncounted(model: nn.Module, capture: Capture, found: Inventory, policy: Policy) -> Widths:
    """The widths, with those that the model's own code counts among those that stay."""
    free = [row.name for row in found.widths.rows if row.obstacle is None]

    def fails(names: Collection[str]) -> str | None:
        untried = {name: "they are not tried" for name in free if name not in names}
        decided = narrowed(found.layers, found.widths.staying(untried), policy)
        verdicts = {**decided.layers, **decided.norms}
        return fails_with(model, capture, {n: v.operator for n, v in verdicts.items() if v.operator is not None})

    wrong = culprits(free, fails) if free else {}
    return found.widths.staying({name: f"the model's own code counts them ({why})" for name, why in wrong.items()})


def with_norms(model: nn.Module, found: Inventory, names: Iterable[str]) -> Inventory:
    """The inventory with rows for norms, each where it stands in the model."""
    places = {name: number for number, (name, _) in enumerate(model.named_modules())}
    rows = (*found.layers, *(norm_facts(name, model.get_submodule(name)) for name in names))
    return dataclasses.replace(found, layers=tuple(sorted(rows, key=lambda row: places.get(row.name, len(places)))))
