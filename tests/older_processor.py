"""The settings under which torch, oneDNN and Numba compute as on a processor with AVX2 and nothing later."""

from __future__ import annotations

import os

FEATURES = (
    "avx avx2 bmi bmi2 cx16 f16c fma fxsr lzcnt mmx movbe popcnt sse sse2 sse3 sse4.1 sse4.2 ssse3 xsave xsaveopt"
)


def environment() -> dict[str, str]:
    """This process's environment, with those settings."""
    return {
        **os.environ,
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in FEATURES.split()),
    }
