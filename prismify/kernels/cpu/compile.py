"""Machine code of the CPU kernels: Numba compiles on first use and keeps it on disk."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from numba import cfunc, types
from numba.core.compiler import Compiler
from numba.np.numpy_support import from_dtype

from . import parts
from .kernels import PLAN, correlate_items, forward_items
from .norm import NORM, all_activated, all_grads, all_moments
from .rows import correlate_rows_items, rows_items
from .simd import record_at
from .vectors import make_spec

#: The first four take a `PLAN`, the others a `NORM`.
CpuJob = Literal["forward", "rows", "correlate", "correlate_rows", "moments", "activated", "norm_grads"]

_SOURCES = ("vectors", "math", "simd", "single", "parts", "pack", "kernels", "rows", "norm")


def _digest() -> str:
    """A hash of the kernels' sources: machine code cached from other sources is not found."""
    sources = (Path(__file__).with_name(f"{name}.py") for name in _SOURCES)
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


@cache
def compiled(job: CpuJob, storage: str, kernel: int, taps: int, tile: int, lanes: int, packing: str) -> Any:
    """The machine code of a job, from disk where it has been compiled before.

    Returns:
        a Numba cfunc that takes the address of a record; its `address` is callable from any thread.
    """
    digest = _digest()

    # The digest is part of the key under which Numba caches; functions handed in would make the key a new one
    # in every process, so there is one entry a job.
    def forward(plan: Any) -> None:
        digest  # noqa: B018
        forward_items(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    def rows(plan: Any) -> None:
        digest  # noqa: B018
        rows_items(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    def correlate(plan: Any) -> None:
        digest  # noqa: B018
        correlate_items(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    def correlate_rows(plan: Any) -> None:
        digest  # noqa: B018
        correlate_rows_items(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    def moments(plan: Any) -> None:
        digest  # noqa: B018
        all_moments(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    def activated(plan: Any) -> None:
        digest  # noqa: B018
        all_activated(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    def norm_grads(plan: Any) -> None:
        digest  # noqa: B018
        all_grads(record_at(plan), make_spec(storage, kernel, taps, tile, lanes, packing))

    entries = (forward, rows, correlate, correlate_rows, moments, activated, norm_grads)
    function: Any = next(entry for entry in entries if entry.__name__ == job)
    # Symbols and cache files are named after it; two kernels of one name could be taken for one another.
    function.__qualname__ = f"{job}_{storage}_{kernel}_{taps}_{tile}_{lanes}_{packing}_{digest[:8]}"
    record = PLAN if job in ("forward", "rows", "correlate", "correlate_rows") else NORM
    signature = types.void(types.CPointer(from_dtype(record)))
    apart = parts.left_to_kernels
    try:
        return _machine_code(function, signature)
    except Exception:
        if not apart:
            raise
        # A Numba whose inside has changed: its own way takes longer.
        parts.left_to_kernels = False
        try:
            return _machine_code(function, signature)
        except Exception:
            parts.left_to_kernels = True
            raise


def _machine_code(function: Any, signature: Any, kept: bool = True) -> Any:
    try:
        with _no_collections():
            return cfunc(signature, cache=kept, pipeline_class=_Told, **parts.LEAN)(function)
    except (OSError, RuntimeError) as error:
        # Nowhere to write (a read-only installation without a home), or no room: compile for this process only.
        if not kept or not (isinstance(error, OSError) or "cannot cache" in str(error)):
            raise
        return _machine_code(function, signature, kept=False)


@contextmanager
def _no_collections() -> Iterator[None]:
    """A compiler makes millions of objects that live to its end: to look for dead ones takes a tenth of its time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class _Told(Compiler):
    """Numba's compiler, which says that it is at work: it is asked only where no machine code was found."""

    def define_pipelines(self) -> list[Any]:
        _tell()
        pipelines: list[Any] = super().define_pipelines()
        return pipelines


@cache
def _tell() -> None:
    """Say once why a first call takes seconds, to who looks on."""
    # Whatever became of stderr is no reason not to compute.
    with suppress(AttributeError, OSError, ValueError):
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            print("compiling prismify's CPU kernels: a first call takes seconds", file=sys.stderr)
