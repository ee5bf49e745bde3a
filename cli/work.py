"""What `scan` and `convert` do alike: open, build, capture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from ..checkpoint import Pipeline, Source, open_source
from ..checkpoint.layouts import Selection
from ..errors import CaptureError, OutputError, PrismifyError
from ..graph import Capture, capture_all, unwrap
from ..graph.program import capture_program, program_module
from ..plan import Plan
from ..validation import read_json_file
from .inputs import example_inputs
from .options import Wanted


def opened(wanted: Wanted) -> Source | Pipeline:
    """The SOURCE a person named, with what they allow it to do."""
    return open_source(
        wanted.source,
        model=wanted.model,
        arguments=wanted.arguments,
        allow=wanted.allow,
        trust=wanted.trust_pickle,
        trust_code=wanted.trust_code,
        config=wanted.config,
        select=Selection(wanted.prefix, wanted.ema, wanted.variant),
    )


def with_notes(plan: Plan, source: Source) -> Plan:
    """The plan with what is to be said of its source, known once that was built."""
    return dataclasses.replace(plan, notes=(*source.notes, *plan.notes)) if source.notes else plan


def built_for_conversion(source: Source, wanted: Wanted) -> nn.Module | ExportedProgram:
    """The model with its weights; of one that comes in shards and can be read by its shapes, without them."""
    if source.stored is not None:
        model = source.build(empty=True)
        if source.stored and isinstance(model, nn.Module) and all(p.is_meta for p in model.parameters()):
            try:
                capture = captured(unwrap(model), wanted)[1]
            except CaptureError:
                capture = Capture(())
            if capture.entries and all(entry.graph is not None for entry in capture.entries):
                return model
    return source.build()


def build_for_scan(source: Source) -> nn.Module | ExportedProgram:
    """The model without memory for weights where its factory allows that, else with them."""
    try:
        return source.build(empty=True)
    except PrismifyError:
        return source.build()


def as_module(model: nn.Module | ExportedProgram) -> nn.Module:
    """What runs: a module itself, of an exported program its graph."""
    return model if isinstance(model, nn.Module) else program_module(model)


def captured(
    model: nn.Module | ExportedProgram,
    wanted: Wanted,
    rebuild: Callable[[], nn.Module | ExportedProgram] | None = None,
) -> tuple[nn.Module, Capture]:
    """The model and its capture; a model on meta that only runs on real values is built again with weights.

    An exported program comes back as a module that holds its tensors.
    """
    if isinstance(model, ExportedProgram):
        given = example_inputs(program_module(model), wanted.inputs, "forward")
        args, kwargs = (given.args, given.kwargs) if given is not None else (None, None)
        return capture_program(model, args, kwargs, wanted.methods)

    def attempt(candidate: nn.Module) -> Capture:
        given = example_inputs(unwrap(candidate), wanted.inputs, wanted.methods[0] if wanted.methods else "forward")
        if given is None:
            return capture_all(candidate, methods=wanted.methods)
        return capture_all(candidate, given.args, given.kwargs, wanted.methods)

    can_rebuild = rebuild is not None and any(p.is_meta for p in model.parameters())
    try:
        capture = attempt(model)
        if capture.graphs or not can_rebuild:
            return model, capture
    except CaptureError:
        if not can_rebuild:
            raise
    assert rebuild is not None
    rebuilt = rebuild()
    assert isinstance(rebuilt, nn.Module)
    return rebuilt, attempt(rebuilt)


def check_plan_place(path: Path) -> None:
    """See that a plan takes the place of nothing but a plan."""
    if not path.exists() and not path.is_symlink():
        return
    try:
        content = read_json_file(path)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not {"version", "layers"} <= content.keys():
        raise OutputError(f"{path} exists and is no plan: choose another name")
