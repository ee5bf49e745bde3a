"""Which engine serves a call: each says what it serves and why not, and the first that does is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch

from ..errors import PrismifyError
from . import cpu, cuda
from . import torch as torch_engines
from .engine import Engine
from .fused.protocol import FusedRun
from .problem import NormAct, Problem

#: In order of preference. A new engine is a folder beside these, whose `__init__` makes its `Engine`, and a word here.
ENGINES: dict[str, Engine] = {engine.name: engine for engine in (cpu.ENGINE, cuda.ENGINE, *torch_engines.ENGINES)}

_forced: ContextVar[str | None] = ContextVar("prismify_engine", default=None)


#: The engine that `use_engine` names here, or None.
forced = _forced.get


def choose(problem: Problem, device: str, dtype: torch.dtype) -> Engine:
    """The engine that serves a problem on a device type.

    Raises:
        PrismifyError: `use_engine` names one that does not.
    """
    name = _forced.get()
    if name is None:
        return _chosen(problem, device, dtype)
    if (reason := refusal(ENGINES[name], problem, device, dtype)) is not None:
        raise PrismifyError(f"engine {name!r} does not serve this call: {reason}")
    return ENGINES[name]


@lru_cache(maxsize=4096)
def _chosen(problem: Problem, device: str, dtype: torch.dtype) -> Engine:
    return next(e for e in ENGINES.values() if refusal(e, problem, device, dtype) is None)


def refusal(engine: Engine, problem: Problem, device: str, dtype: torch.dtype) -> str | None:
    """Why an engine does not serve a problem, or None."""
    if engine.devices and device not in engine.devices:
        return f"it runs on {', '.join(engine.devices)}, not on {device}"
    return engine.unavailable() or engine.why_not(problem, dtype)


def fusing(problem: Problem, block: NormAct, device: str, dtype: torch.dtype) -> FusedRun | None:
    """What computes a fused block, or None where its parts are computed one after the other."""
    engine = choose(problem, device, dtype)
    if engine.fused is None or engine.why_not_fused(problem, block, dtype) is not None:
        return None
    return engine.fused()


def fuser(device: str) -> str | None:
    """The engine that fuses on a device type, or None."""
    forced = _forced.get()
    for engine in ENGINES.values() if forced is None else (ENGINES[forced],):
        if engine.fused is not None and device in engine.devices and engine.unavailable() is None:
            return engine.name
    return None


def opaque(device: str) -> bool:
    """Whether a device type has an engine of its own, rather than torch's operators."""
    name = _forced.get()
    if name is not None:
        return not ENGINES[name].transparent
    return any(device in engine.devices and engine.unavailable() is None for engine in ENGINES.values())


# A compiler asks once and keeps the answer, as if marked by `torch.compiler.assume_constant_result`, which
# would import all of torch._dynamo here.
opaque._dynamo_marked_constant = True  # type: ignore[attr-defined]
fuser._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Serve every call in this context by one engine: for comparison, and to work around a fault.

    Args:
        name: "numba", "triton", "torch" or "reference".

    Raises:
        PrismifyError: there is no such engine; and, at a call, the engine does not serve it.

    Example:
        >>> import torch
        >>> from prismify.kernels import deep_prism, use_engine
        >>> with use_engine("reference"):
        ...     deep_prism(torch.zeros(1, 4, 5, 5), torch.zeros(3, 3, 3), padding=(1, 1)).shape
        torch.Size([1, 4, 5, 5])
    """
    if name not in ENGINES:
        raise PrismifyError(f"engine {name!r} is none of {', '.join(ENGINES)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def engines_report() -> list[dict[str, Any]]:
    """What this machine computes the operator with: one dict an engine, in order of preference.

    Each has `engine`, `devices` ([] for all), `summary`, `available`, `reason` (why not; None where it is),
    `details` (versions and settings, by name; empty where it is not available) and `fuses` (whether it computes
    `norm_act_deep_prism` in one, rather than part by part).
    """
    rows: list[dict[str, Any]] = []
    for engine in ENGINES.values():
        reason = engine.unavailable()
        rows.append(
            {
                "engine": engine.name,
                "devices": list(engine.devices),
                "summary": engine.summary,
                "available": reason is None,
                "reason": reason,
                "details": engine.describe() if reason is None else {},
                "fuses": engine.fused is not None and reason is None,
            }
        )
    return rows


def explain(problem: Problem, device: str, dtype: torch.dtype, block: NormAct | None = None) -> dict[str, Any]:
    """Which engine serves a problem, as `engine`, and why others before it do not, as `passed_over`.

    With the norm and activation of a fused `block` before it, also `why_not_fused`: None where the engine
    computes them in one.
    """
    passed_over: dict[str, str] = {}
    for engine in ENGINES.values():
        reason = refusal(engine, problem, device, dtype)
        if reason is None:
            told: dict[str, Any] = {"engine": engine.name, "passed_over": passed_over}
            if block is not None:
                told["why_not_fused"] = engine.why_not_fused(problem, block, dtype)
            return told
        passed_over[engine.name] = reason
    raise AssertionError("the last engines serve everything")
