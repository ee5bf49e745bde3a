"""Capture a model as a `torch.fx.Graph`, by the first technique that works on it.

The ladder: a recorder on fake tensors (allocates nothing, works on `meta`), the recorder on real tensors,
`torch.export`, and at last a bare list of modules. Which rung was taken, and why the ones above failed,
is part of the result.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)

from ..errors import CaptureError, one_line
from ..generators import seed_generators
from .chance import chosen_at_random
from .dataflow.flow import output_nodes, shape
from .entry_points import EntryPoint, Technique
from .exported import export_graph
from .inputs import ExampleInputs, noise
from .inputs.advice import advice
from .inputs.example_inputs import candidates, completed, given_inputs, is_complete
from .isolation import Snapshot, cloned_tensors, device_of, fake_weights, undisturbed, unwrap
from .recorder import Recorder, module_hooks, record
from .training import with_gradients

_MAX_GUESSES = 60
_NO_OUTPUT = "it returns no tensor"
#: Of CPU time: a busy machine must not change what is found.
_MAX_SECONDS = 15.0
# What no other example input would cure: the model itself asks for values.
_NOT_THE_INPUTS = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)


@dataclass(frozen=True)
class Capture:
    """Every captured entry point of a model.

    Args:
        skipped: why a method that the model has could not be captured.
        by_chance: names of the parameters that reach a result when the model chooses at random otherwise than it did.
        by_chance_in_training: of others, names of those that a call in training uses then.
    """

    entries: tuple[EntryPoint, ...]
    skipped: tuple[str, ...] = ()
    by_chance: frozenset[str] = frozenset()
    by_chance_in_training: frozenset[str] = frozenset()

    @property
    def graphs(self) -> list[tuple[EntryPoint, fx.Graph]]:
        return [(entry, entry.graph) for entry in self.entries if entry.graph is not None]


@torch.inference_mode(False)
def capture(
    model: nn.Module,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    method: str = "forward",
) -> fx.Graph:
    """The FX graph of one call of `model.<method>`.

    Each node's `meta` holds `shape`, `dtype`, `module` (the qualified name of the module that ran it) and
    `call` (its call index). The model may lie on `meta`; it comes back as it was.

    Args:
        args, kwargs: example inputs; guessed from the signature and config when both are None.

    Raises:
        CaptureError: no technique could run the model.
    """
    entry = capture_method(unwrap(model), method, given_inputs(args, kwargs))
    if entry.graph is None:
        raise CaptureError(f"{type(model).__name__}.{method} cannot be captured: {_why(entry)}")
    return entry.graph


def capture_all(
    model: nn.Module,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    methods: Iterable[str] | None = None,
    given: Mapping[str, ExampleInputs] | None = None,
) -> Capture:
    """Capture `forward`, and `encode` and `decode` by themselves where the model has them.

    Given example inputs belong to the first of `methods`; the others get guesses.

    Args:
        given: the inputs of each method, instead of `args` and `kwargs`; methods without any get guesses.

    Raises:
        CaptureError: `methods` names one the model lacks or that cannot be captured, or given inputs do not run.
    """
    model = unwrap(model)
    for method in methods or ():
        if not callable(getattr(model, method, None)):
            raise CaptureError(f"{type(model).__name__} has no method {method!r} to capture")
    first = given_inputs(args, kwargs)
    wanted = list(methods) if methods else ["forward", *(m for m in ("encode", "decode") if _has_method(model, m))]
    entries: list[EntryPoint] = []
    skipped: list[str] = []
    encoded: list[Tensor] = []
    for index, method in enumerate(wanted):
        like = encoded if method == "decode" else []
        inputs = given.get(method) if given is not None else first if index == 0 else None
        entry = capture_method(model, method, inputs, like)
        learnt: frozenset[str] = frozenset().union(*(e.trained or () for e in entries))
        if entry.inputs is not None and not _shown(entry) <= learnt:  # else an earlier method has told it all
            entry = _with_training(model, entry)
        elif entry.inputs is not None:
            entry = dataclasses.replace(entry, trained=_shown(entry))
        if inputs is not None and entry.graph is None:
            raise CaptureError(f"{type(model).__name__}.{method} does not run on the given inputs: {_why(entry)}")
        if methods and entry.graph is None:
            raise CaptureError(f"{type(model).__name__}.{method} cannot be captured: {_why(entry)}")
        if method == "encode":
            encoded = sorted((noise(*s) for s in dict.fromkeys(entry.output_shapes)), key=torch.numel)
        if entry.graph is not None or index == 0:
            entries.append(entry)
        else:
            skipped.append(f"{method} could not be captured by itself: {entry.failed[0]}")
    if entries[0].graph is None:
        failed = entries.pop(0) if len(entries) > 1 else entries[0]
        skipped.insert(0, f"{failed.method} could not be captured: {_why(failed)}")
    return Capture(tuple(entries), tuple(skipped), *chosen_at_random(model, entries))


def capture_method(
    model: nn.Module, method: str, given: ExampleInputs | None = None, like: list[Tensor] | None = None
) -> EntryPoint:
    """Climb down the ladder for one method; never raises for a model that cannot be captured."""
    guesses = completed(model, method, given) if given else candidates(model, method, like)
    failed: list[str] = []
    raised = ""  # by the model itself on real values: other ones may run
    with undisturbed(model):
        best, result, advisable = _first_that_runs(model, method, guesses)
    if isinstance(result, fx.Graph) and output_nodes(result):
        return _entry(method, "recorder on fake tensors", result, best, failed)
    failed.append(f"recorder on fake tensors: {_NO_OUTPUT if isinstance(result, fx.Graph) else result}")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        failed.append("recorder on real tensors: the model lies on meta, without weights")
    elif best is not None:
        try:
            with undisturbed(model) as held, cloned_tensors(model):
                graph = record(model, method, best.map(lambda t: t.to(device_of(model), copy=True)), held)
            if output_nodes(graph):
                return _entry(method, "recorder on real tensors", graph, best, failed)
            failed.append(f"recorder on real tensors: {_NO_OUTPUT}")
        except Exception as error:
            raised = one_line(error)
            failed.append(f"recorder on real tensors: {raised}")
    if best is not None:
        try:
            with undisturbed(model):
                graph = export_graph(model, method, best)
            return _entry(method, "torch.export", graph, best, failed)
        except Exception as error:
            failed.append(f"torch.export: {one_line(error)}")
    whole = given is not None and is_complete(model, method, given)
    told = advice(model, method, best, raised or str(result), whole=whole) if advisable or raised else ""
    return EntryPoint(method, "list of modules", None, None, (), tuple(failed), told)


def _with_training(model: nn.Module, entry: EntryPoint) -> EntryPoint:
    """An entry point with what a call in training mode runs, and what gets a gradient there or in evaluation."""
    assert entry.inputs is not None
    if entry.technique == "torch.export":
        return entry
    fake = entry.technique == "recorder on fake tensors"
    graph, trained = with_gradients(model, entry.method, entry.inputs, fake=fake, training=True)
    if trained is None or not _shown(entry) <= trained:
        _, evaluated = with_gradients(model, entry.method, entry.inputs, fake=fake, training=False)
        trained = evaluated if trained is None else trained | (evaluated or frozenset())
    return dataclasses.replace(entry, training=graph, trained=trained)


def _shown(entry: EntryPoint) -> frozenset[str]:
    """The parameters that a method's graph shows."""
    nodes = entry.graph.nodes if entry.graph is not None else ()
    return frozenset(name for node in nodes for name in node.meta.get("parameter", ()))


def _first_that_runs(
    model: nn.Module, method: str, guesses: Iterator[ExampleInputs]
) -> tuple[ExampleInputs | None, fx.Graph | str, bool]:
    """The first guess that runs on fake tensors with its graph; else the guess that came furthest, and why.

    Last: whether other inputs might run.
    """
    best: ExampleInputs | None = None
    furthest, reason = -1, "no example inputs could be made"
    begun = time.thread_time()
    try:
        with fake_weights(model) as (mode, fake):
            snapshot = Snapshot(model)
            for guess, _ in zip(guesses, range(_MAX_GUESSES), strict=False):
                if time.thread_time() - begun > _MAX_SECONDS:
                    break
                recorder: Recorder | None = None
                try:
                    inputs = guess.map(fake)
                    recorder = Recorder(model, inputs.tensors(), snapshot.generators)
                    with mode, module_hooks(recorder), torch.inference_mode(), recorder:
                        output = getattr(model, method)(*inputs.args, **inputs.kwargs)
                    return guess, recorder.finish(output), False
                except Exception as error:
                    snapshot.restore()  # what a wrong guess made the model keep would mislead the next
                    seed_generators(0)
                    steps = len(recorder.graph.nodes) if recorder else 0
                    if isinstance(error, _NOT_THE_INPUTS):
                        return guess, one_line(error), False
                    if steps > furthest:
                        furthest, best, reason = steps, guess, one_line(error)
    except Exception as error:  # a module that lets no fake weight in, such as a ScriptModule
        if best is None:
            best = next(guesses, None)
        return best, one_line(error), False
    return best, reason, True


def _entry(
    method: str, technique: Technique, graph: fx.Graph, inputs: ExampleInputs | None, failed: list[str]
) -> EntryPoint:
    shapes = tuple(shape(node) for node in output_nodes(graph))
    return EntryPoint(method, technique, graph, inputs, shapes, tuple(failed))


def _why(entry: EntryPoint) -> str:
    """Why the technique that had the best chance failed (real tensors, where there were any), and what to do."""
    real = [reason for reason in entry.failed if reason.startswith("recorder on real") and "lies on meta" not in reason]
    reason = (real or list(entry.failed))[0]
    return f"{reason}; {entry.advice}" if entry.advice else reason


def _has_method(model: nn.Module, name: str) -> bool:
    method: Callable[..., Any] | None = getattr(model, name, None)
    if not callable(method) or isinstance(method, nn.Module):
        return False
    try:
        return bool(inspect.signature(method).parameters)
    except ValueError:
        return False
