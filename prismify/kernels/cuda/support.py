"""The CUDA engine's word on what it serves; `run` computes, and is imported when a call needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cache

import torch

from ..problem import Problem

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: Channels a volume needs before the stencil wins over the dense convolution that small volumes become.
MIN_DEPTH = 8
#: Volumes on one side.
MAX_VOLUMES = 16
#: Taps over pixels, and in all: a thread keeps a sum or a weight for each in registers.
MAX_PIXEL_TAPS = 32
MAX_TAPS = 96


@cache
def unavailable() -> str | None:
    """Why this engine cannot run on this machine, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return None


def why_not(problem: Problem, dtype: torch.dtype) -> str | None:
    """Why this engine does not serve a problem, or None."""
    if dtype not in DTYPES:
        return f"{dtype} is none of {', '.join(map(str, DTYPES))}"
    pixel_taps = problem.kernel[1] * problem.kernel[2]
    if pixel_taps > MAX_PIXEL_TAPS or pixel_taps * problem.kernel[0] > MAX_TAPS:
        return f"a kernel of {problem.kernel} has too many taps for the registers"
    if max(problem.volumes) > MAX_VOLUMES:
        return f"{problem.volumes[0]} -> {problem.volumes[1]} volumes are more than {MAX_VOLUMES}"
    tokens = problem.depth == problem.kernel[0] == 1
    if problem.depth < MIN_DEPTH and max(problem.volumes) > 1 and not tokens:
        return f"volumes of {problem.depth} channels are nearly a dense convolution, which is faster"
    return None


def describe() -> dict[str, str]:
    """Versions and device, in words."""
    return {"triton": importlib.metadata.version("triton"), "device": torch.cuda.get_device_name()}
