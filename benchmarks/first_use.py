"""What the first calls in a process take, where machine code was or was not kept from an earlier one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_CODE = (
    "import time, torch; from prismify.kernels import deep_prism; begun = time.perf_counter()\n"
    "u = torch.zeros(1, 8, 4, 4); w = torch.zeros(3, 3, 3, requires_grad=True)\n"
    "y = deep_prism(u, w, padding=(1, 1)); print(time.perf_counter() - begun)\n"
    "y.sum().backward(); print(time.perf_counter() - begun)"
)


def first_use(checkout: Path, kept: str) -> dict[str, float]:
    """Seconds to the end of a first call and of a first training step, by a checkout's code.

    Args:
        kept: the folder of machine code; where it is empty, all is compiled.
    """
    code = f"import sys; sys.path.insert(0, {str(checkout)!r})\n{_CODE}"
    environment = {**os.environ, "NUMBA_CACHE_DIR": kept}
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE).stdout
    call, step = (round(float(line), 2) for line in told.split())
    return {"call": call, "step": step}
