"""The engine for CUDA: Triton kernels, imported by the first call. `support` says what it serves, `run` launches."""

from ..engine import Engine, Run
from . import support


def _run() -> Run:
    from . import run

    return run


ENGINE = Engine(
    "triton",
    ("cuda",),
    "a stencil compiled by Triton; neighbouring channels kept in registers",
    support.unavailable,
    support.why_not,
    _run,
    support.describe,
)
