"""The engine for CPUs: stencils compiled by Numba, one specialised program for each shape of problem.

`support` says what it serves, `compile` makes programs of the kernels, `run` and `fused` call them. Numba is imported
by the first call.
"""

from functools import cache

from ..engine import Engine, Run
from ..fused.protocol import FusedRun
from . import support


@cache
def _run() -> Run:
    from . import run

    return run


@cache
def _fused() -> FusedRun:
    from . import fused

    return fused


ENGINE = Engine(
    "numba",
    ("cpu",),
    "a stencil compiled by Numba; rows packed in the cache, vectors reused over neighbouring channels; "
    "fuses norm, activation and residual sum",
    support.unavailable,
    support.why_not,
    _run,
    support.describe,
    _fused,
    support.why_not_fused,
)
