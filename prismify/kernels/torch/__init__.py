"""The engines that serve everything, in plain torch: the fast formulations (`plain`), and the paper's own listing."""

from __future__ import annotations

import torch

from ..engine import Engine, Run
from ..problem import Problem


def _fast() -> Run:
    from .run import FAST

    return FAST


def _definition() -> Run:
    from .run import DEFINITION

    return DEFINITION


def _always() -> None:
    return None


def _anything(problem: Problem, dtype: torch.dtype) -> None:
    return None


def _version() -> dict[str, str]:
    return {"torch": torch.__version__}


_FAST = "a banded dense convolution, shifts or Conv3d"
#: In order of preference.
ENGINES = (
    Engine("torch", (), _FAST, _always, _anything, _fast, _version, transparent=True),
    Engine("reference", (), "the paper's listing, Conv3d", _always, _anything, _definition, _version, transparent=True),
)
