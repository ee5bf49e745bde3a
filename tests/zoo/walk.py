"""Take one architecture through everything prismify does: scan, convert, run, train, save, load, export."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import prismify
from prismify.checkpoint.references import parse_reference
from prismify.errors import PlanError, one_line
from prismify.graph import Capture, ExampleInputs, capture_all
from prismify.graph.dataflow.roles import primary_inputs
from prismify.graph.inputs import tensors_in
from prismify.graph.isolation import undisturbed
from prismify.plan import Plan, Policy
from prismify.rewrite.module import converted_copy
from prismify.scanning import scan_captured

from .oracle import contradictions, flow_of
from .row import Row

MACHINE = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__.partition('+')[0]}"
STEPS = ("build", "scan", "roles", "convert", "forward", "backward", "save", "load", "export")
#: Paper first; where that has nothing to convert, everything that volumes reach.
POLICIES = {
    "paper": Policy(),
    "volumes": Policy(name="volumes", min_volume=8),
    "volumes, feed-forward": Policy(name="volumes", feed_forward=True, min_volume=8),
}


@dataclass
class Result:
    """One row's walk: plain data.

    Args:
        steps: step -> "ok", or in one line why it is not; steps that were not reached are missing.
        seconds: how long each step took.
        date, machine: when and where.
    """

    name: str
    steps: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    policy: str = ""
    technique: str = ""
    inputs: str = ""
    parameters: tuple[int, int] = (0, 0)
    layers: int = 0
    replaced: int = 0
    date: str = ""
    machine: str = ""

    @property
    def green(self) -> bool:
        return all(self.steps.get(step) == "ok" for step in STEPS)

    def plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Failed(Exception):  # noqa: N818 - a step that did not hold is a result
    """A step did not hold; the message says in one line why."""


def slug(row: Row) -> str:
    """The row's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")


def walk(row: Row, folder: Path, steps: tuple[str, ...] = STEPS) -> Result:
    """Everything but loading, which a fresh process does (`reload`); never raises.

    Args:
        folder: what is to be loaded goes into a folder of the row's name in here.
        steps: which to take; what a step needs must be among them.
    """
    result = Result(row.name, date=datetime.date.today().isoformat(), machine=MACHINE)
    state: dict[str, Any] = {"whole": steps == STEPS}
    for step in steps:
        if step == "load":
            continue
        begun = time.perf_counter()
        try:
            torch.manual_seed(0)
            _STEPS[step](row, result, state, folder / slug(row))
            result.steps[step] = "ok"
        except Failed as error:
            result.steps[step] = str(error)
        except Exception as error:
            result.steps[step] = one_line(error, 200)
        result.seconds[step] = round(time.perf_counter() - begun, 2)
        if result.steps[step] != "ok" and step in ("build", "scan", "convert"):
            break
    return result


def _build(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    state["model"] = parse_reference(row.source, dict(row.small)).build().eval()


def _scan(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    model: nn.Module = state["model"]
    kwargs = given(row.inputs)
    capture = capture_all(model, None if kwargs is None else (), kwargs)
    for name, policy in POLICIES.items():
        result.policy, plan = name, scan_captured(model, capture, policy)
        if plan.replaced:
            break
    state |= {"capture": capture, "plan": plan}
    result.technique = capture.entries[0].technique
    result.inputs = "; ".join(f"{e.method}: {e.inputs.describe()}" for e in capture.entries if e.inputs)
    result.parameters = (plan.parameters.before, plan.parameters.after)
    result.layers, result.replaced = len(plan.layers), len(plan.replaced)
    if not capture.graphs:
        raise Failed(f"not captured: {capture.entries[0].failed[0]}")
    check_report(model, plan)


def check_report(model: nn.Module, plan: Plan) -> None:
    """Every layer once, with a decision and a reason; the totals are those of the unique parameters.

    Raises:
        Failed: one of them does not hold.
    """
    names = [d.name for d in plan.layers]
    if len(set(names)) < len(names):
        raise Failed(f"{next(n for n in names if names.count(n) > 1)} is in the report more than once")
    for name, module in model.named_modules():
        is_layer = isinstance(module, (_ConvNd, nn.Linear, nn.MultiheadAttention))
        if is_layer and name not in names and not any(name.startswith(f"{n}.") for n in names):  # in a packed attention
            raise Failed(f"{name} is not in the report")
    for row in plan.layers:
        if not row.reason or row.decision not in ("replace", "keep"):
            raise Failed(f"{row.name} has no reason")
    unique = sum(p.numel() for p in model.parameters())
    if plan.parameters.before != unique:
        raise Failed(f"the report counts {plan.parameters.before:,} parameters, the model has {unique:,}")
    in_layers = sum(d.parameters_before for d in plan.layers)
    if in_layers > unique:
        raise Failed(f"the layers count {in_layers:,} parameters of {unique:,}")


def _roles(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    model, plan, capture = state["model"], state["plan"], state["capture"]
    found = {d.name: d.role for d in plan.layers}
    if row.roles is not None:
        expected = {}
        for name in found:
            ends = [e for e in ("input", "output") if name in getattr(row.roles, e)]
            cond = any(fnmatch.fnmatchcase(name, p) for p in row.roles.cond)
            dead = any(fnmatch.fnmatchcase(name, p) for p in row.roles.dead)
            expected[name] = "+".join(ends) or ("cond" if cond else "dead" if dead else "inner")
        if missing := (row.roles.input | row.roles.output) - found.keys():
            raise Failed(f"{sorted(missing)[0]} is not in the report")
        for name, role in expected.items():
            if found[name] != role:
                raise Failed(f"{name} should be {role}, and is called {found[name]}")
    roles = set(found.values())
    data = {n for _, graph in capture.graphs for n in primary_inputs(graph)}
    # Where the data are tokens, an embedding reads them first, which is no row of the report.
    for end in ("input", "output") if any(n.meta["dtype"].is_floating_point for n in data) else ("output",):
        if not any(end in role for role in roles):
            raise Failed(f"no layer is called {end}")
    with undisturbed(model):
        flows = [
            flow_of(model, entry, {str(n.target) for n in primary_inputs(graph)}) for entry, graph in capture.graphs
        ]
    if wrong := contradictions(found, flows):
        raise Failed("; ".join(wrong[:2]))


def _convert(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    model, plan, kwargs = state["model"], state["plan"], given(row.inputs)
    before = {n: t.clone() for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    try:
        if state["whole"]:
            small = prismify.convert(model, plan, args=None if kwargs is None else (), kwargs=kwargs)
        else:  # the same without capturing the model once more
            small = converted_copy(model, plan, state["capture"])
    except PlanError as error:
        raise Failed(str(error)) from error
    state["small"] = small
    after = sum(p.numel() for p in small.parameters())
    if after != plan.parameters.after:
        raise Failed(f"the report promises {plan.parameters.after:,} parameters, the model has {after:,}")
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not torch.equal(tensor, before[name]):
            raise Failed(f"the original's {name} changed")


def _forward(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    for entry in _entries(state["capture"]):
        shapes = tuple(tuple(t.shape) for t in outputs(state["small"], entry.method, entry.inputs))
        if shapes != entry.output_shapes:
            raise Failed(f"{entry.method} returns {shapes}, the original {entry.output_shapes}")


def _backward(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    """A finite gradient to every new weight, by an ordinary training step of the model itself."""
    small, plan = state["small"], state["plan"]
    waiting = {f"{d.name}.{n}": p for d in plan.replaced for n, p in small.get_submodule(d.name).named_parameters()}
    for parameter in small.parameters():
        parameter.grad = None
    for entry in _entries(state["capture"]):
        torch.manual_seed(0)
        output = getattr(small, entry.method)(*entry.inputs.args, **entry.inputs.kwargs)
        floating = [t for t in tensors_in(output) if t.is_floating_point() and t.requires_grad]
        if floating:
            sum(t.float().square().mean() for t in floating).backward()
        for name, parameter in list(waiting.items()):
            if parameter.grad is not None:
                if not torch.isfinite(parameter.grad).all():
                    raise Failed(f"the gradient of {name} is not finite")
                del waiting[name]
    if waiting:
        raise Failed(f"no gradient reaches {min(waiting)}")


def _save(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    small = state["small"]
    small.zero_grad()
    family = row.source.partition(":")[0] == "diffusers"  # a config describes those, a reference all others
    reference = {} if family else {"reference": row.source, "arguments": dict(row.small)}
    prismify.save(small, folder / "model", **reference)
    calls = [(e.method, e.inputs.args, e.inputs.kwargs) for e in _entries(state["capture"])]
    expected = [outputs(small, e.method, e.inputs) for e in _entries(state["capture"])]
    torch.save({"calls": calls, "outputs": expected}, folder / "expected.pt")


def _export(row: Row, result: Result, state: dict[str, Any], folder: Path) -> None:
    entry = _entries(state["capture"])[0]
    try:
        exported = _exported(state["small"], entry)
    except Exception as error:
        reason = one_line(error, 160)
        try:
            _exported(state["model"], entry)
        except Exception:
            reason = f"torch.export cannot follow the original either: {reason}"
        raise Failed(reason) from error
    for ours, theirs in zip(exported, outputs(state["small"], entry.method, entry.inputs), strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max() or 1), equal_nan=True):
            raise Failed(f"the exported {entry.method} computes something else")


def _exported(model: nn.Module, entry: Any) -> list[Tensor]:
    """What an entry point returns after `torch.export`."""
    with _quiet(), torch.no_grad():
        method = _Method(model, entry.method)
        program = torch.export.export(method, entry.inputs.args, entry.inputs.kwargs, strict=False)
        torch.manual_seed(0)
        found: list[Tensor] = program.module()(*entry.inputs.args, **entry.inputs.kwargs)
        return found


_STEPS = {
    "build": _build,
    "scan": _scan,
    "roles": _roles,
    "convert": _convert,
    "forward": _forward,
    "backward": _backward,
    "save": _save,
    "export": _export,
}


class _Method(nn.Module):
    """Exports know `forward` and plain lists only."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        return list(tensors_in(getattr(self.model, self.method)(*args, **kwargs)))


def given(shapes: dict[str, tuple[Any, ...]] | None) -> dict[str, Any] | None:
    """Inputs of the shapes that a row gives: (1,) is a time, "int" begins the shape of indices. The rest is guessed."""
    if shapes is None:
        return None
    generator = torch.Generator().manual_seed(0)

    def made(shape: tuple[Any, ...]) -> Tensor:
        if shape[0] == "int":
            return torch.zeros(shape[1:], dtype=torch.long)
        return torch.full(shape, 5.0) if shape == (1,) else torch.randn(shape, generator=generator)

    return {name: made(shape) for name, shape in shapes.items()}


def outputs(model: nn.Module, method: str, inputs: ExampleInputs) -> list[Tensor]:
    """Every tensor one call returns."""
    torch.manual_seed(0)
    with torch.no_grad():
        return list(tensors_in(getattr(model, method)(*inputs.args, **inputs.kwargs)))


def _entries(capture: Capture) -> list[Any]:
    return [e for e in capture.entries if e.inputs is not None]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
