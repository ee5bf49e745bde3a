"""The plan: plain data that says what becomes of every layer, and why.

A scan makes one, rewriting carries one out, a checkpoint stores one, loading replays one, a report prints
one. Nothing else decides which layer changes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import OutputError, PlanError
from ..graph import ExampleInputs
from ..layers import Operator
from ..validation import build, plain_number, read_json_file

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Decision:
    """What becomes of one layer.

    Args:
        name: qualified name of the layer's module.
        kind: "conv2d", "linear", "attention", ...
        role: "input", "output", "input+output", "inner", "cond", "dead" or "unknown".
        decision: "replace" or "keep".
        rule: short name of the rule behind `reason`; the same for every layer it holds for.
        reason: why, in words.
        operator: what takes the layer's place; None when kept.
        parameters_before, parameters_after: unique numbers; a tied weight counts where it comes first.
        macs_before, macs_after: multiply-adds of one pass at the example inputs' size.
        attention: "self q", "cross k", ... for a projection of an attention.
    """

    name: str
    kind: str
    role: str
    decision: Literal["replace", "keep"]
    rule: str
    reason: str
    operator: Operator | None = None
    in_channels: int = 0
    out_channels: int = 0
    kernel_size: tuple[int, ...] = ()
    groups: int = 1
    calls: int = 0
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    attention: str | None = None
    parameters_before: int = 0
    parameters_after: int = 0
    macs_before: int = 0
    macs_after: int = 0


@dataclass(frozen=True)
class Totals:
    """Sums over a whole model, before and after."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """How many times smaller; infinite when nothing is left."""
        return self.before / self.after if self.after else float("inf")


@dataclass(frozen=True)
class Plan:
    """One decision a layer, with everything a report needs.

    Args:
        model: class name of the scanned model.
        policy: the policy's fields, as plain data.
        layers: one `Decision` for each convolution, linear and attention layer.
        parameters: all unique parameters of the model, layers and others.
        macs: of one pass at the example inputs' size.
        size_bytes: of the state dict.
        buffers: numbers in buffers, which are not among the parameters.
        attention: each attention found: block, kind, and the layers of its parts.
        capture: how each entry point was captured, with which inputs, and why other techniques failed.
        notes: remarks for the reader.
        examples: the inputs that each method was captured with; in memory alone, files hold their shapes.
    """

    model: str
    policy: dict[str, Any]
    layers: tuple[Decision, ...]
    parameters: Totals
    macs: Totals
    size_bytes: Totals
    buffers: int = 0
    attention: tuple[dict[str, Any], ...] = ()
    capture: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    examples: dict[str, ExampleInputs] = field(default_factory=dict, compare=False, repr=False)
    version: int = field(default=SCHEMA_VERSION)

    @property
    def replaced(self) -> list[Decision]:
        """The layers that change."""
        return [d for d in self.layers if d.decision == "replace"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON reads it back: dicts, lists, numbers and strings."""
        fields = dataclasses.asdict(dataclasses.replace(self, examples={}))
        for layer, row in zip(self.layers, fields["layers"], strict=True):
            if layer.operator is not None:
                row["operator"] = layer.operator.to_dict()
        del fields["examples"]
        plain: dict[str, Any] = json.loads(json.dumps(fields, default=plain_number))
        return plain

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """The plan that `to_dict` wrote, or that a person edited.

        Raises:
            PlanError: a field is missing, unknown or of the wrong kind, named in the message.
        """
        if not isinstance(data, dict):
            raise PlanError("a plan is a JSON object")
        if data.get("version") != SCHEMA_VERSION:
            raise PlanError(
                f"plan version {data.get('version')!r} is not {SCHEMA_VERSION}: "
                "it was written by another version of prismify"
            )
        if "examples" in data:
            raise PlanError("plan: unknown field 'examples'")
        rows = data.get("layers")
        if not isinstance(rows, (list, tuple)):
            raise PlanError("a plan needs a list of layers")
        layers = tuple(_decision(row, index) for index, row in enumerate(rows))
        rows_of = Counter(layer.name for layer in layers)
        for name, count in rows_of.items():
            if count > 1:
                raise PlanError(f"layer {name!r} has more than one row")
        return build(cls, {**data, "layers": layers}, "plan")

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        except OSError as error:
            raise OutputError(f"{path}: cannot write the plan ({error.strerror})") from error

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that `save` wrote, or that was edited by hand.

        Raises:
            PlanError: the file is missing, is not JSON, or is not a plan.
        """
        try:
            content = read_json_file(Path(path))
        except OSError as error:
            raise PlanError(f"{path}: cannot read the plan ({error.strerror})") from error
        except ValueError as error:
            raise PlanError(f"{path}: not JSON ({error})") from error
        try:
            return cls.from_dict(content)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error


def with_rows(plan: Plan, rows: Mapping[str, Decision]) -> Plan:
    """A plan with other decisions about some layers, and its sums counted anew."""
    layers = tuple(rows.get(d.name, d) for d in plan.layers)
    saved = sum(d.parameters_before - d.parameters_after for d in layers)
    saved_macs = sum(d.macs_before - d.macs_after for d in layers)
    number = round(plan.size_bytes.before / max(1, plan.parameters.before + plan.buffers))  # bytes of one
    return dataclasses.replace(
        plan,
        layers=layers,
        parameters=dataclasses.replace(plan.parameters, after=plan.parameters.before - saved),
        macs=dataclasses.replace(plan.macs, after=plan.macs.before - saved_macs),
        size_bytes=dataclasses.replace(plan.size_bytes, after=plan.size_bytes.before - number * saved),
    )


def _decision(row: Any, index: int) -> Decision:
    where = f"layers[{index}]"
    if not isinstance(row, dict):
        raise PlanError(f"{where} is not an object")
    row = dict(row)
    if isinstance(row.get("name"), str):
        where = f"layer {row['name']!r}"
    if row.get("decision") == "keep":
        row["operator"] = None
    elif row.get("decision") == "replace" and row.get("operator") is None:
        raise PlanError(f'{where}: to replace it, give an operator such as {{"type": "DeepPrism"}}')
    if (row.get("decision") == "replace") != (row.get("rule") == "replaced") or "rule" not in row:
        row |= {"rule": "by_hand", "reason": f"{row.get('decision')} by hand"}
    return build(Decision, row, where)
