"""Carry a plan out on a model: everything is checked before anything changes."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, overload

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from ..errors import ConversionError, PlanError, ShapeError
from ..facts import is_layer, is_norm, is_replaceable, obstacle_of, widths_of
from ..graph import Capture, unwrap
from ..graph.program import capture_program, program_module
from ..layers import PrismMultihead, build_operator
from ..plan import Decision, Plan, Policy, Totals
from ..plan.policy import OwnPolicy
from ..scanning import captured_for, kept_groups, replan, scan_captured
from .copying import copied, held_by_classes, originals_of, rebound
from .graph import operator_layer, replace_operators
from .program import rewrite_program
from .verify import blame, verify

M = TypeVar("M", bound=nn.Module)
_HOOKS = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


@overload
def convert(
    model: ExportedProgram,
    plan: Plan | None = None,
    *,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    policy: str | Policy | OwnPolicy = "paper",
    check: bool = True,
) -> ExportedProgram: ...


@overload
def convert(
    model: M,
    plan: Plan | None = None,
    *,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    policy: str | Policy | OwnPolicy = "paper",
    check: bool = True,
) -> M: ...


@torch.inference_mode(False)  # weights made under it could never be trained
def convert(
    model: nn.Module | ExportedProgram,
    plan: Plan | None = None,
    *,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    policy: str | Policy | OwnPolicy = "paper",
    check: bool = True,
) -> nn.Module | ExportedProgram:
    """A converted copy of `model`, of the same class; the original is left bitwise as it was.

    Of a model in `DataParallel`, `DistributedDataParallel` or `torch.compile` the one inside is converted.
    The config, training mode, gradient checkpointing and hooks come along; replaced weights are not copied.
    The plan that was carried out is `converted.prismify_plan`. New weights are drawn from torch's generator, as those
    of any new layer; nothing else moves it, nor Python's or numpy's.

    Args:
        model: any `nn.Module`; a `torch.fx.GraphModule` or an `ExportedProgram` is rewritten as a graph.
        plan: from `scan` or a file; made with `policy` when None.
        args, kwargs: example inputs, as for `scan`.
        check: afterwards compare the output shapes, and see that finite gradients reach every new weight.

    Raises:
        PlanError: the plan does not fit the model, or replaces nothing.
        ConversionError: the checks failed; the message names the layer.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
        >>> type(convert(net)[1]).__name__
        'DeepPrism'
    """
    if isinstance(model, ExportedProgram):
        graph, capture = capture_program(model, args, kwargs)
        plan = _decided(graph, capture, plan, policy)
        return _carried_out(model, graph, plan, capture if check else None)
    inner = unwrap(model)
    capture = captured_for(inner, plan, args, kwargs)
    plan = _decided(model, capture, plan, policy)  # which notes what was unwrapped
    _warn_unchecked(plan, capture, check)
    return converted_copy(inner, plan, capture, check=check)


def converted_copy(inner: M, plan: Plan, capture: Capture, *, check: bool = True) -> M:
    """`carry_out` on a copy of an unwrapped model.

    Raises:
        PlanError: the plan does not fit the model, or replaces nothing.
        ConversionError: the checks failed, or the model cannot be copied.
    """
    _require_work(plan)
    new = _build(inner, plan)
    modules = dict(inner.named_modules())
    operators = {n: m for n, m in new.items() if not is_replaceable(modules.get(n))}
    memo: dict[int, Any] = {}
    try:
        # With the replacements in its memo, a deep copy puts them in and skips the weights they replace.
        converted = copied(inner, {id(modules[n]): m for n, m in new.items() if n not in operators}, memo)
    except Exception as error:
        raise ConversionError(f"{type(inner).__name__} cannot be copied ({error}); use convert_ in place") from error
    for name, module in new.items():
        if name not in operators:
            if isinstance(module, PrismMultihead) and f"{name}.out_proj".lstrip(".") not in new:
                module.out_proj = copy.deepcopy(module.out_proj, memo)
            for hooks in _HOOKS:  # a hook that is a method of the model becomes the copy's method
                setattr(module, hooks, copy.deepcopy(getattr(modules[name], hooks), memo))
    if isinstance(converted, fx.GraphModule):
        replace_operators(converted, operators)
    _without_nested_tensors(converted)
    if any(isinstance(module, fx.GraphModule) for module in converted.modules()):
        # Code is saved by exporting it, which runs it.
        converted.prismify_inputs = capture.entries[0].inputs  # type: ignore[assignment]
    if check:
        originals = originals_of(inner)
        if (holder := held_by_classes(converted, originals)) is not None:
            raise ConversionError(
                f"{holder} holds layers of the model itself, so a copy would go on running the original's: "
                "use convert_ in place, or keep them with --exclude"
            )
        with blamed(inner, capture):
            verify(converted, capture, new, originals)
    _attach(converted, plan)
    return converted


@torch.inference_mode(False)
def convert_(
    model: M,
    plan: Plan | None = None,
    *,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    policy: str | Policy | OwnPolicy = "paper",
    check: bool = True,
) -> M:
    """`convert` in place: `model` itself is changed and returned; after an error it is as it was.

    Raises:
        PlanError: also for a `GraphModule`, which only `convert` rewrites.
        ConversionError: the checks failed.
    """
    if isinstance(model, ExportedProgram):
        raise PlanError("an ExportedProgram is rewritten as a copy: use prismify.convert")
    inner = unwrap(model)
    if isinstance(inner, fx.GraphModule):
        raise PlanError("a GraphModule is rewritten as a copy: use prismify.convert")
    capture = captured_for(inner, plan, args, kwargs)
    plan = _decided(model, capture, plan, policy)  # which notes what was unwrapped
    _warn_unchecked(plan, capture, check)
    carry_out(inner, plan, capture if check else None)
    return model


def carry_out(model: nn.Module, plan: Plan, capture: Capture | None) -> None:
    """Change an unwrapped model as a plan made for it says, and check it against `capture` where one is given.

    Raises:
        PlanError: the plan does not fit the model, or replaces nothing.
        ConversionError: the checks failed; the model is as it was.
    """
    _require_work(plan)
    new = _build(model, plan)
    modules = dict(model.named_modules())
    replaced = {id(value): n for n in new for value in (modules[n], *modules[n].parameters(recurse=False))}
    undo = _swap(model, new)
    if capture is not None:
        try:
            with blamed(model, capture, undo):
                verify(model, capture, new, replaced)
        except BaseException:
            _take_back(undo)
            raise
    _attach(model, plan)


def replay(model: M, plan: Plan) -> M:
    """Put a plan's operators into a model that was just built, without capture or checks: for loading.

    Raises:
        PlanError: the plan does not fit the model.
    """
    new, modules = _build(model, plan), dict(model.named_modules())
    _swap(model, {n: m for n, m in new.items() if is_replaceable(modules.get(n))})
    if isinstance(model, fx.GraphModule):
        replace_operators(model, {n: m for n, m in new.items() if not is_replaceable(modules.get(n))})
    model.prismify_plan = plan  # type: ignore[assignment]
    return model


def _decided(model: nn.Module, capture: Capture, plan: Plan | None, policy: str | Policy | OwnPolicy) -> Plan:
    """The plan to carry out, its facts measured on this model."""
    plan = scan_captured(model, capture, policy) if plan is None else replan(model, capture, plan)
    _require_work(plan)
    return plan


def carry_out_program(program: ExportedProgram, plan: Plan, capture: Capture | None) -> ExportedProgram:
    """The program that a plan made for it says, checked against `capture` where one is given.

    Kept tensors are the original's own, not copies.

    Raises:
        PlanError: the plan does not fit the program, or replaces nothing.
        ConversionError: the checks failed, or a replacement would fix a size that may change.
    """
    _require_work(plan)
    return _carried_out(program, program_module(program), plan, capture, share=True)


def _carried_out(
    program: ExportedProgram, module: fx.GraphModule, plan: Plan, capture: Capture | None, share: bool = False
) -> ExportedProgram:
    new = _build(module, plan)
    converted = rewrite_program(program, new, share=share)
    if capture is not None:
        verify(program_module(converted), capture, new)
    if hasattr(program, "prismify_plan"):
        converted.prismify_plan = program.prismify_plan  # type: ignore[attr-defined]
    _attach(converted, plan)
    return converted


@contextmanager
def blamed(original: nn.Module, capture: Capture, undo: Sequence[Callable[[], None]] = ()) -> Iterator[None]:
    """Name the original as the cause of a failed check where it fails in the same way itself.

    Args:
        undo: what makes the model the original again.
    """
    try:
        yield
    except ConversionError as error:
        _take_back(undo)  # type: ignore[arg-type]
        if (reason := blame(original, capture)) is not None:
            raise ConversionError(reason) from error
        raise


def _warn_unchecked(plan: Plan, capture: Capture, check: bool) -> None:
    """Say that shapes and gradients will not be compared, where no method of the model could be run."""
    if check and not any(entry.inputs is not None for entry in capture.entries):
        why = f" ({capture.skipped[0]})" if capture.skipped else ""
        text = f"the conversion of {plan.model} is not checked, because no example inputs run it{why}: give args=..."
        warnings.warn(text, stacklevel=3)


#: Rules whose reason says more than what the rule means.
_TELLING = ("unsupported", "no_gain", "width")


def _require_work(plan: Plan) -> None:
    if not plan.replaced:
        first = {d.rule: f", as {d.name}: {d.reason}" for d in reversed(plan.layers) if d.rule in _TELLING}
        kept = [f"{g['layers']} {g['meaning']}{first.get(g['rule'], '')}" for g in kept_groups(plan)[:3]]
        if plan.layers and all(d.role == "unknown" for d in plan.layers):
            kept += plan.notes[:1]  # why nothing is known, and what to do about it
        raise PlanError(f"{plan.model} has nothing to convert: " + ("; ".join(kept) or "it has no layers"))


def _build(model: nn.Module, plan: Plan) -> dict[str, nn.Module]:
    """Every replacement by name, with the old layers' hooks and ties; raises before anything has changed."""
    modules = dict(model.named_modules())
    new: dict[str, nn.Module] = {}
    made: dict[tuple[int, str], nn.Parameter] = {}
    for row in plan.replaced:
        old = _replaceable(model, modules, row)
        assert row.operator is not None
        try:
            module = build_operator(row.operator, old)
        except ShapeError as error:
            raise PlanError(f"{row.name}: {error}") from error
        for hooks in _HOOKS:
            setattr(module, hooks, getattr(old, hooks))
        # Layers that shared a weight or a bias share the new one.
        for name, parameter in list(module.named_parameters()):
            holder, _, leaf = name.rpartition(".")
            shared = made.setdefault((id(_replaced(old, name)), name), parameter)
            module.get_submodule(holder).register_parameter(leaf, shared)
        new[row.name] = module
    for name, module in new.items():
        if isinstance(module, PrismMultihead):
            module.out_proj = new.get(f"{name}.out_proj".lstrip("."), modules[name].out_proj)
    return new


def _replaced(old: nn.Module, name: str) -> Any:
    """The parameter of a layer that a replacement's parameter `name` comes in the place of; None for none."""
    if not isinstance(old, nn.MultiheadAttention):
        return old.bias if name == "bias" else old.weight
    projection, _, leaf = name.rpartition(".")
    if projection == "out_proj":
        return old.out_proj.bias if leaf == "bias" else old.out_proj.weight
    packed = old.in_proj_bias if leaf == "bias" else old.in_proj_weight
    return packed if packed is not None else getattr(old, f"{projection}_weight", None)


def _replaceable(model: nn.Module, modules: dict[str, nn.Module], row: Decision) -> nn.Module:
    """The layer a row speaks of, seen to be what the row says and to be replaceable."""
    layer = modules.get(row.name)
    if row.kind == "norm" and layer is not None and is_norm(layer):
        return layer
    if not is_layer(layer) and isinstance(model, fx.GraphModule):
        layer = operator_layer(model, row)
    if layer is None:
        raise PlanError(f"{row.name}: the model has no such layer")
    obstacle = obstacle_of(layer) if is_layer(layer) else f"a {type(layer).__name__} is no layer prismify replaces"
    if obstacle is not None:
        raise PlanError(f"{row.name}: {obstacle}; set its decision to keep")
    in_channels, out_channels = widths_of(layer)
    if (in_channels, out_channels) != (row.in_channels, row.out_channels):
        planned = f"{row.in_channels}->{row.out_channels}"
        raise PlanError(f"{row.name}: the plan says {planned}, the model has {in_channels}->{out_channels}")
    return layer


def _swap(model: nn.Module, new: dict[str, nn.Module]) -> list[Callable[[], None]]:
    """Put the replacements in every place their modules stand; returns what undoes it."""
    modules = dict(model.named_modules())
    by_id = {id(modules[name]): module for name, module in new.items()}
    return rebound(model, by_id) + _without_nested_tensors(model)


def _take_back(undo: list[Callable[[], None]]) -> None:
    """Undo a swap; called twice, it does nothing more."""
    while undo:
        undo.pop()()


def _without_nested_tensors(model: nn.Module) -> list[Callable[[], None]]:
    """Keep torch's encoders from packing padded inputs for a fast path of dense attention's; what undoes it."""
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, PrismMultihead) for m in module.modules()):
            undo.append(partial(setattr, module, "use_nested_tensor", module.use_nested_tensor))
            module.use_nested_tensor = False
    return undo


def _attach(model: nn.Module | ExportedProgram, plan: Plan) -> None:
    """Leave the plan on the model, joined with that of an earlier conversion."""
    earlier: Plan | None = getattr(model, "prismify_plan", None)
    if earlier is not None:
        plan = dataclasses.replace(
            plan,
            layers=_joined(earlier, plan),
            parameters=Totals(earlier.parameters.before, plan.parameters.after),
            macs=Totals(earlier.macs.before, plan.macs.after),
            size_bytes=Totals(earlier.size_bytes.before, plan.size_bytes.after),
        )
    model.prismify_plan = plan  # type: ignore[union-attr]


def _joined(earlier: Plan, plan: Plan) -> tuple[Decision, ...]:
    """The rows of a plan made for a converted model, as rows of the model before its first conversion."""
    done = {d.name: d for d in earlier.replaced}
    # A packed attention has no row of its own any more: its projections' rows stand in its place.
    packed = [name for name in done if name not in {d.name for d in plan.layers}]
    rows: dict[str, Decision] = {}
    for row in plan.layers:
        above = next((name for name in packed if row.name.startswith(f"{name}.")), None)
        if above is not None:
            rows.setdefault(above, done[above])
        if above is None or row.name in done or row.name == f"{above}.out_proj":
            rows[row.name] = done.get(row.name, row)
    return tuple(rows.values())
