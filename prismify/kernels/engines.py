"""Which engine serves a call: each says what it serves and why not, and the first that does is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import PrismifyError
from .cpu import support as cpu
from .cuda import support as cuda
from .fused.protocol import FusedRun
from .problem import NormAct, Problem


class Run(Protocol):
    """What computes: the operator and its two gradients (see `cpu_run` for the arguments)."""

    def forward(self, u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem, /) -> Tensor: ...

    def input_grad(self, grad: Tensor, weight: Tensor, problem: Problem, /) -> Tensor: ...

    def weight_grad(
        self, grad: Tensor, u: Tensor, problem: Problem, weight_shape: tuple[int, ...], /
    ) -> tuple[Tensor, Tensor | None]: ...


def _no_fusion(problem: Problem, block: NormAct, dtype: torch.dtype) -> str:
    return "this engine computes norm, activation, operator and sum one after the other"


@dataclass(frozen=True)
class Engine:
    """A way to compute the operator.

    Args:
        name: what it is called in reports and by `use_engine`.
        devices: device types it runs on; none for all.
        summary: how it computes, in words.
        unavailable: why it cannot run on this machine, or None.
        why_not: why it does not serve a problem of an element type, or None.
        run: imports and returns what computes.
        describe: versions and settings, in words.
        fused: imports and returns what computes norm, activation, operator and residual sum in one; None where
            nothing does.
        why_not_fused: why that does not serve a problem that the engine serves, or None.
    """

    name: str
    devices: tuple[str, ...]
    summary: str
    unavailable: Callable[[], str | None]
    why_not: Callable[[Problem, torch.dtype], str | None]
    run: Callable[[], Run]
    describe: Callable[[], dict[str, str]]
    fused: Callable[[], FusedRun] | None = None
    why_not_fused: Callable[[Problem, NormAct, torch.dtype], str | None] = _no_fusion


def _cpu_run() -> Run:
    from .cpu import run as cpu_run

    return cpu_run


def _cpu_fused() -> FusedRun:
    from .cpu import fused as cpu_fused

    return cpu_fused


def _cuda_run() -> Run:
    from .cuda import run as cuda_run

    return cuda_run


def _fast() -> Run:
    from .torch.run import FAST

    return FAST


def _definition() -> Run:
    from .torch.run import DEFINITION

    return DEFINITION


def _nothing() -> None:
    return None


def _anything(problem: Problem, dtype: torch.dtype) -> None:
    return None


def _torch() -> dict[str, str]:
    return {"torch": torch.__version__}


#: In order of preference.
ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            "numba",
            ("cpu",),
            "a stencil compiled by Numba; rows packed in the cache, vectors reused over neighbouring channels; "
            "fuses norm, activation and residual sum",
            cpu.unavailable,
            cpu.why_not,
            _cpu_run,
            cpu.describe,
            _cpu_fused,
            cpu.why_not_fused,
        ),
        Engine(
            "triton",
            ("cuda",),
            "a stencil compiled by Triton; neighbouring channels kept in registers",
            cuda.unavailable,
            cuda.why_not,
            _cuda_run,
            cuda.describe,
        ),
        Engine("torch", (), "a banded dense convolution, shifts or Conv3d", _nothing, _anything, _fast, _torch),
        Engine("reference", (), "the paper's listing, Conv3d", _nothing, _anything, _definition, _torch),
    )
}

#: Engines that autograd and compilers see through: they are called directly, not as one opaque operator.
TRANSPARENT = ("torch", "reference")

_forced: ContextVar[str | None] = ContextVar("prismify_engine", default=None)


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
        return name not in TRANSPARENT
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
