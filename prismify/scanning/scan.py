"""Scan a model: capture it, list its layers, decide about each. The model does not change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from ..errors import PlanError, ShapeError
from ..facts import Inventory, Layer, inventory, parameter_count, state_bytes
from ..facts.widths import is_norm
from ..graph import Capture, ExampleInputs, capture_all, unwrap
from ..graph.program import capture_program
from ..plan import Decision, Plan, Policy, Totals, Verdict, check_patterns, decide
from ..plan.biases import idle_biases, without_idle_biases
from ..plan.narrowing import check_widths, narrowed
from ..plan.policies import own_verdict, policy_name
from ..plan.policy import OwnPolicy
from ..plan.turns import dilated_in_turn
from .narrowing import uncounted, with_norms
from .settling import counted, left_alone, settle_refused, settle_tied, settle_within

#: What every plan says of a conversion until the model has been trained.
UNTRAINED = (
    "The new weights are untrained: trained dense weights do not project onto them, "
    "so the converted model must be retrained."
)
#: The same where they are near the trained ones once the recipe has started them.
NEAREST = (
    "The new weights are fresh ones. Of a trained model, the recipe in the converted folder starts them nearest to the "
    "original's, in closed form, and trains them."
)
#: The operators of which that is so (docs/operators.md).
NEAR = ("Narrow", "Tucker", "LowRank")


@torch.inference_mode(False)
def scan(
    model: nn.Module | ExportedProgram,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    policy: str | Policy | OwnPolicy = "paper",
    methods: Iterable[str] | None = None,
) -> Plan:
    """What conversion would do to `model`, layer by layer, with reasons.

    Args:
        model: any `nn.Module`, or an `ExportedProgram`; on `meta` nothing is allocated. It comes back as it was.
        args, kwargs: example inputs; when both are None a program's own, or guessed from the signature and config.
        policy: "paper", "volumes", a `Policy`, or a function of your own from a layer's facts to what becomes of it.
        methods: entry points to capture; `forward`, and `encode` and `decode` where there are, by default.

    Raises:
        PlanError: the policy is unknown, a pattern matches nothing, or a lazy module has no shape yet.
        CaptureError: `methods` names a method the model lacks.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
        >>> [(d.name, d.decision) for d in scan(net).layers]
        [('0', 'keep'), ('1', 'replace'), ('2', 'keep')]
    """
    if isinstance(model, ExportedProgram):
        module, capture = capture_program(model, args, kwargs, methods)
        return scan_captured(module, capture, policy)
    parameter_count(unwrap(model))  # refuses lazy modules before they are run
    return scan_captured(model, capture_all(model, args, kwargs, methods), policy)


def scan_captured(
    model: nn.Module,
    capture: Capture,
    policy: str | Policy | OwnPolicy = "paper",
    found: Inventory | None = None,
) -> Plan:
    """`scan` with a capture that was made already, and with the inventory of it where there is one."""
    if isinstance(policy, str):
        policy = Policy(name=policy)  # type: ignore[arg-type]
    found = inventory(unwrap(model), capture) if found is None else found
    if isinstance(policy, Policy) and policy.name == "narrow":
        return _narrowed(model, capture, found, policy)
    if isinstance(policy, Policy):
        if found.layers:
            check_patterns([layer.name for layer in found.layers], policy)
        decided = {layer.name: decide(layer, policy) for layer in found.layers}
        described = dataclasses.asdict(policy)
    elif callable(policy):
        decided = {layer.name: own_verdict(layer, policy) for layer in found.layers}
        described = {"name": policy_name(policy)}
    else:
        raise PlanError(f"policy {policy!r:.60} is no policy's name, no Policy and no function")
    settled = settle_refused(unwrap(model), found, decided)
    verdicts = settle_within(found, settle_tied(found, settled))
    if isinstance(policy, Policy):
        verdicts = dilated_in_turn(found.layers, without_idle_biases(found.layers, verdicts, policy), policy)
    return _plan(model, capture, found, verdicts, described)


def _narrowed(model: nn.Module, capture: Capture, found: Inventory, policy: Policy) -> Plan:
    """The plan of policy narrow, with rows for the norms that change."""
    if found.layers:
        check_patterns([layer.name for layer in found.layers], policy)
    found = dataclasses.replace(found, widths=uncounted(unwrap(model), capture, found, policy))
    decided = narrowed(found.layers, found.widths, policy)
    found = with_norms(unwrap(model), found, decided.norms)
    return _plan(model, capture, found, {**decided.layers, **decided.norms}, dataclasses.asdict(policy))


def replan(model: nn.Module, capture: Capture, plan: Plan) -> Plan:
    """`plan`'s decisions, with every fact and total measured anew on `model`: how an edited plan is applied.

    Raises:
        PlanError: the plan names a layer that the model lacks, or lacks one that the model has.
    """
    inner = unwrap(model)
    found = inventory(inner, capture)
    norms = [d.name for d in plan.layers if d.kind == "norm"]
    modules = dict(inner.named_modules())
    if wrong := [name for name in norms if not is_norm(modules.get(name))]:
        raise PlanError(f"the plan's norm {wrong[0]!r} is not in {type(inner).__name__}")
    found = with_norms(inner, found, norms)
    names, planned = [layer.name for layer in found.layers], {d.name: d for d in plan.layers}
    held = {name for name, _ in (*inner.named_modules(), *inner.named_parameters(remove_duplicate=False))}
    for name in [name for name in planned if name not in names]:
        if name not in held or (capture.graphs and not capture.skipped):
            raise PlanError(f"the plan's layer {name!r} is not in {type(inner).__name__}")
        # A weight that no layer owns is seen only where it is used.
        if planned[name].decision == "replace":
            raise PlanError(f"the plan's layer {name!r} shows only when the model runs: give example inputs (args=...)")
        del planned[name]
    for name in names:
        if name not in planned:
            raise PlanError(f"the plan has no row for layer {name!r}; scan the model again")
    verdicts = {name: Verdict(d.operator, d.rule, d.reason) for name, d in planned.items()}
    for layer in found.layers:
        if left_alone(layer, verdicts):
            raise PlanError(f"{layer.name} is applied by {layer.within}: replace that as well, or keep both")
        for other in layer.tied:
            if (verdicts[other].operator if other in verdicts else None) != verdicts[layer.name].operator:
                holder = other or "the model itself"
                raise PlanError(f"{layer.name} shares a weight or bias with {holder}: give both the same decision")
    check_widths(found.widths, {name: verdict.operator for name, verdict in verdicts.items()})
    return _plan(model, capture, found, verdicts, plan.policy)


def _plan(
    model: nn.Module, capture: Capture, found: Inventory, verdicts: dict[str, Verdict], policy: dict[str, Any]
) -> Plan:
    modules = dict(unwrap(model).named_modules())
    layers = tuple(_decision(layer, verdicts[layer.name], modules) for layer in found.layers)
    before = parameter_count(model)
    after = before + sum(d.parameters_after - d.parameters_before for d in layers)
    size = state_bytes(model)
    saved = sum(
        (d.parameters_before - d.parameters_after) * layer.itemsize
        for layer, d in zip(found.layers, layers, strict=True)
    )
    macs = sum(d.macs_before for d in layers), sum(d.macs_after for d in layers)
    return Plan(
        model=type(unwrap(model)).__name__,
        policy=policy,
        layers=layers,
        parameters=Totals(before, after),
        macs=Totals(macs[0] + found.macs_elsewhere, macs[1] + found.macs_elsewhere),
        size_bytes=Totals(size, size - saved),
        buffers=sum(b.numel() for b in model.buffers()),
        attention=tuple(_attention_row(found)),
        capture=tuple(_capture_row(capture)),
        examples={entry.method: entry.inputs for entry in capture.entries if entry.inputs is not None},
        notes=tuple(_notes(model, capture, found, verdicts)),
    )


def _decision(layer: Layer, verdict: Verdict, modules: dict[str, nn.Module]) -> Decision:
    operator, after, macs = verdict.operator, layer.parameters, layer.macs
    if operator is not None:
        # What a tied layer shares with an earlier one is the earlier one's to count.
        try:
            count = counted(operator, layer, modules)
        except ShapeError as error:
            raise PlanError(f"{layer.name}: {error}") from error
        after = count.weights if "weight" in layer.owns else 0
        after += count.biases if "bias" in layer.owns else 0
        macs = count.macs
    part = layer.attention
    return Decision(
        name=layer.name,
        kind=layer.kind,
        role=layer.role,
        decision="replace" if operator else "keep",
        rule=verdict.rule,
        reason=verdict.reason,
        operator=operator,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        kernel_size=layer.kernel_size,
        groups=layer.groups,
        calls=layer.calls,
        input_shape=layer.input_shape,
        output_shape=layer.output_shape,
        attention=f"{part.kind} {', '.join(part.parts)}" if part else None,
        parameters_before=layer.parameters,
        parameters_after=after,
        macs_before=layer.macs,
        macs_after=macs,
    )


def _attention_row(found: Inventory) -> list[dict[str, Any]]:
    rows = []
    for attention in found.attention:
        parts: dict[str, list[str]] = {}
        for part, use in attention.parts:
            parts.setdefault(part, []).append(use.module)
        rows.append({"block": attention.module, "kind": attention.kind, "parts": parts})
    return rows


def _capture_row(capture: Capture) -> list[dict[str, Any]]:
    return [
        {
            "method": entry.method,
            "technique": entry.technique,
            "inputs": _input_rows(entry.inputs) if entry.inputs else [],
            "outputs": [list(shape) for shape in entry.output_shapes],
            "failed": list(entry.failed),
        }
        for entry in capture.entries
    ]


def _input_rows(inputs: ExampleInputs) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in inputs.tensors()
    ]


def _frozen(found: Inventory, verdicts: dict[str, Verdict]) -> list[str]:
    """The layers that are frozen in a model that trains others, and are to be replaced."""
    return [layer.name for layer in found.layers if layer.frozen and verdicts[layer.name].operator is not None]


def _notes(model: nn.Module, capture: Capture, found: Inventory, verdicts: dict[str, Verdict]) -> list[str]:
    notes = list(capture.skipped)
    if frozen := _frozen(found, verdicts):
        notes.append(
            f"{len(frozen)} frozen layers (requires_grad=False), such as {frozen[0]}, would become untrained and "
            "trainable ones: keep what was trained for its own sake with --exclude"
        )
    if idle := idle_biases(found.layers, verdicts):
        notes.append(
            f"{len(idle)} new biases of one number, such as that of {idle[0]}, have no effect, since norms take them "
            'away again. Policy paper makes them in front of group norms because Table 3 counts them; "bias": "none" '
            "in a plan leaves them out."
        )
    if unwrap(model) is not model:
        notes.append(f"{type(model).__name__} was unwrapped: names are those of the model inside")
    for entry in capture.entries:
        if entry.technique == "recorder on real tensors":
            notes.append(f"{entry.method}: recorded on real values, so one branch was seen")
    operators = {verdict.operator.type for verdict in verdicts.values() if verdict.operator is not None}
    if operators:
        notes.append(NEAREST if operators <= set(NEAR) else UNTRAINED)
    else:
        notes.append("Nothing to convert.")
    return notes
