"""What may take the place of every block, from what each candidate's policy decides about its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from torch import nn

from ..errors import PlanError
from ..facts import Inventory, inventory
from ..graph import capture_all
from ..graph.dataflow import Widths
from ..plan import Decision, Plan, Policy, with_rows
from ..scanning import scan_captured
from ..training.blockwise import blocks_of

#: The candidate that every block has: the layers as they are.
KEPT = "kept"


@dataclass(frozen=True)
class Entry:
    """One candidate for one block.

    Args:
        block: qualified name of the block.
        candidate: its name, or `KEPT`.
        rows: the decisions about the block's layers; those that stay are among them.
    """

    block: str
    candidate: str
    rows: tuple[Decision, ...]

    @property
    def name(self) -> str:
        """Of this entry among all."""
        return f"{self.block} / {self.candidate}"

    @property
    def parameters(self) -> int:
        """Of the block's layers, with the candidate in place."""
        return sum(row.parameters_after for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds of the block's layers in one pass at the example inputs' size."""
        return sum(row.macs_after for row in self.rows)


def ladder_of(model: nn.Module, candidates: Mapping[str, Policy]) -> tuple[Plan, list[Entry]]:
    """Every candidate for every block, the block as it is first; and the plan that keeps them all.

    Layers that share a weight with another are kept: blocks are chosen one by one. A candidate that does to a block
    what an earlier one does is left out.

    Raises:
        PlanError: no candidate replaces any layer.
    """
    capture = capture_all(model)
    found = inventory(model, capture)
    tied = {layer.name for layer in found.layers if layer.tied}
    within = dataclasses.replace(found, widths=_within_blocks(model, found))
    plans = _with_like_rows(
        {
            name: scan_captured(model, capture, policy, within if policy.name == "narrow" else found)
            for name, policy in candidates.items()
        }
    )
    wanted = {d.name for plan in plans.values() for d in plan.replaced} - tied
    first = next(iter(plans.values()))
    if not wanted:
        raise PlanError(
            f"{first.model} has nothing to search: none of {', '.join(candidates)} replaces any layer "
            "(prismify scan says why)"
        )
    entries = []
    for block, layers in blocks_of(model, wanted).items():
        seen = set()
        rows = {name: tuple(d for d in plan.layers if d.name in layers) for name, plan in plans.items()}
        for name, decisions in {KEPT: tuple(map(kept, rows[next(iter(rows))])), **rows}.items():
            described = tuple(str(d.operator) for d in decisions)
            if described not in seen:
                seen.add(described)
                entries.append(Entry(block, name, decisions))
    return keeping(first), entries


def _within_blocks(model: nn.Module, found: Inventory) -> Widths:
    """The widths, of which those stay that do not begin and end in one block: others may change in it or not."""
    along = {width.name: (*width.makers, *width.readers, *width.norms) for width in found.widths.rows}
    home = {name: b for b, names in blocks_of(model, chain(*along.values())).items() for name in names}
    beyond = {name for name, names in along.items() if len({home.get(other) for other in names}) > 1}
    return found.widths.staying(dict.fromkeys(beyond, "they are not of one block alone"))


def _with_like_rows(plans: dict[str, Plan]) -> dict[str, Plan]:
    """The plans with a row for every norm that one of them narrows, so that all count the same numbers."""
    norms = {row.name: kept(row) for plan in plans.values() for row in plan.layers if row.kind == "norm"}
    found = {}
    for name, plan in plans.items():
        own = {row.name for row in plan.layers}
        more = tuple(row for row in norms.values() if row.name not in own)
        found[name] = dataclasses.replace(plan, layers=(*plan.layers, *more))
    return found


def keeping(plan: Plan) -> Plan:
    """A plan of the same model that changes nothing."""
    return with_rows(plan, {d.name: kept(d) for d in plan.replaced})


def kept(row: Decision) -> Decision:
    """The decision to leave a layer as it is, where it would be replaced."""
    if row.operator is None:
        return row
    return dataclasses.replace(
        row,
        decision="keep",
        operator=None,
        rule="searched",
        reason="kept by the search",
        parameters_after=row.parameters_before,
        macs_after=row.macs_before,
    )
