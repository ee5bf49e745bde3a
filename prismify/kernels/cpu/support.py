"""The CPU engine's word on what it serves; `run` computes, and is imported when a call needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cache

import torch

from ..axes import MAX_KERNEL
from ..problem import NormAct, Problem
from . import threads as cpu_threads

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: Channels a volume needs before the stencil wins over the dense convolution that small volumes become.
MIN_DEPTH = 8
#: Volumes on one side: packed rows of all of them stay in the cache.
MAX_VOLUMES = 16
#: Rows of the input that a tile may span, over all volumes.
MAX_ROWS = 256
#: Groups to be normalised below which torch's norm, which cuts groups, finds more threads work.
MIN_GROUPS = 8
#: Numbers in the input below which what surrounds the kernels takes longer than torch's norm and activation.
MIN_NUMBERS = 1 << 18


@cache
def unavailable() -> str | None:
    """Why this engine cannot run on this machine, or None."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install numba)"
    return None


def why_not(problem: Problem, dtype: torch.dtype) -> str | None:
    """Why this engine does not serve a problem, or None."""
    if dtype not in DTYPES:
        return f"{dtype} is none of {', '.join(map(str, DTYPES))}"
    if dtype == torch.float16 and not _converts_half():
        return "this processor has no instructions that convert float16"
    if problem.kernel[0] > MAX_KERNEL:
        return f"a channel kernel of {problem.kernel[0]} is longer than {MAX_KERNEL}"
    if max(problem.volumes) > MAX_VOLUMES:
        return f"{problem.volumes[0]} -> {problem.volumes[1]} volumes are more than {MAX_VOLUMES}"
    tokens = problem.depth == problem.kernel[0] == 1
    if problem.depth < MIN_DEPTH and max(problem.volumes) > 1 and not tokens:
        return f"volumes of {problem.depth} channels are nearly a dense convolution, which is faster"
    span = (problem.kernel[1] - 1) * problem.geometry.dilation[0] + 1
    if span * max(problem.volumes) > MAX_ROWS:
        return f"kernel rows that span {span} rows of {max(problem.volumes)} volumes do not fit the cache"
    return None


def why_not_fused(problem: Problem, block: NormAct, dtype: torch.dtype) -> str | None:
    """Why norm, activation, operator and sum are not one where this engine serves the operator, or None."""
    if problem.batch * block.groups < MIN_GROUPS:
        return f"{problem.batch * block.groups} groups are too few for threads, which take one each"
    numbers = problem.batch * problem.volumes[0] * problem.depth * problem.size[0] * problem.size[1]
    if numbers < MIN_NUMBERS:
        return f"{numbers} numbers are so few that torch's own norm and activation take no longer"
    return None


def describe() -> dict[str, str]:
    """Versions, vector width and threads, in words."""
    return {
        "numba": importlib.metadata.version("numba"),
        "vectors": f"{8 * vector_bytes()} bits",
        "threads": f"{torch.get_num_threads()} of {cpu_threads.describe()}",
    }


@cache
def vector_bytes() -> int:
    """Bytes in a vector register of this processor."""
    features = _features()
    return 64 if "avx512f" in features else 32 if "avx" in features else 16


@cache
def _features() -> frozenset[str]:
    """The instructions that Numba compiles for: the processor's, or those that its settings name."""
    from llvmlite import binding
    from numba.core import config

    if config.CPU_FEATURES is not None:
        return frozenset(f.removeprefix("+") for f in config.CPU_FEATURES.split(",") if f.startswith("+"))
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


def _converts_half() -> bool:
    from llvmlite import binding

    return "f16c" in _features() or not binding.get_default_triple().startswith(("x86_64", "i686"))
