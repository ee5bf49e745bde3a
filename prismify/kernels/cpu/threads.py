"""Running compiled code on several threads: those torch itself computes with, where they can be reached."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache

import torch

_Entry = Callable[[int], None]


def run(entry: int, plan: int, threads: int) -> None:
    """Call the machine code at `entry` with the address `plan` from `threads` threads, and wait.

    The code divides the work itself: each thread claims items until none is left.
    """
    if threads == 1:
        _callable(entry)(plan)
    elif (parallel := _openmp()) is not None:
        parallel(entry, plan, threads, 0)
    else:
        # Each call releases the interpreter's lock while it computes.
        function = _callable(entry)
        others = [_pool(os.getpid(), threads).submit(function, plan) for _ in range(threads - 1)]
        function(plan)
        for other in others:
            other.result()


def describe() -> str:
    """Which threads compute, in words."""
    return "torch's OpenMP threads" if _openmp() is not None else "threads of its own"


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """OpenMP's own way to start a parallel region, from the library that torch has loaded.

    A second pool would fight torch's for the cores: OpenMP threads spin for a while after each region.
    """
    try:
        # Looked up through torch's library, which finds whichever OpenMP it is linked to.
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    function: Callable[[int, int, int, int], None] = parallel
    return function


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """A pool of this process: threads do not survive a fork, so its child makes its own."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="prismify")


@cache
def _callable(entry: int) -> _Entry:
    function: _Entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(entry)
    return function
