"""Machine code of the CPU kernels, made before it is needed: where a container is built or a home is shared."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import PrismifyError
from ..generators import kept_generators
from ..kernels import norm_act_deep_prism
from ..kernels.engines import ENGINES
from ..layers import DeepPrism, Prism


@kept_generators()
def compile_ahead(
    dtype: torch.dtype = torch.float32, watch: Callable[[str], None] = lambda name: None
) -> dict[str, float]:
    """Have the CPU engine compile what a training step of usual models calls, and keep it on disk.

    Numba keeps machine code for this kind of processor beside the sources, or where NUMBA_CACHE_DIR says; later
    processes find it there. Layers with another kernel along the channels than 3 still compile at their first use.

    Args:
        dtype: of the maps.
        watch: is told the name of what is compiled next.

    Returns:
        name -> seconds that it took; next to nothing where it was there already.

    Raises:
        PrismifyError: the engine cannot run here; the message says why.
    """
    reason = ENGINES["numba"].unavailable()
    if reason is not None:
        raise PrismifyError(f"nothing to compile: {reason}")
    found = {}
    for name, make in _STEPS.items():
        watch(f"compiling for {name}, {str(dtype).removeprefix('torch.')}")
        begun = time.perf_counter()
        make(dtype).sum().backward()  # type: ignore[no-untyped-call]
        found[name] = time.perf_counter() - begun
    return found


def _maps(dtype: torch.dtype) -> Tensor:
    made: Tensor = DeepPrism(32, dtype=dtype)(torch.randn(1, 32, 16, 16, dtype=dtype, requires_grad=True))
    return made


def _narrow_maps(dtype: torch.dtype) -> Tensor:
    made: Tensor = DeepPrism(32, dtype=dtype)(torch.randn(1, 32, 8, 2, dtype=dtype, requires_grad=True))
    return made


def _even_kernels(dtype: torch.dtype) -> Tensor:
    layer = DeepPrism(32, kernel_size=4, stride=2, padding=1, dtype=dtype)
    made: Tensor = layer(torch.randn(1, 32, 32, 32, dtype=dtype, requires_grad=True))
    return made


def _tokens(dtype: torch.dtype) -> Tensor:
    made: Tensor = Prism(32, dtype=dtype)(torch.randn(1, 16, 32, dtype=dtype, requires_grad=True))
    return made


def _fused(dtype: torch.dtype) -> Tensor:
    x = torch.randn(8, 32, 32, 32, dtype=dtype, requires_grad=True)  # as large as a block must be to run as one
    weight = torch.randn(3, 3, 3, dtype=dtype, requires_grad=True)
    norm = torch.ones(32, dtype=dtype, requires_grad=True)
    return norm_act_deep_prism(x, weight, num_groups=8, norm_weight=norm, norm_bias=norm, padding=(1, 1))


#: Between them they call every program of usual models.
_STEPS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "maps": _maps,
    "narrow maps": _narrow_maps,
    "maps with kernels of 4": _even_kernels,
    "tokens": _tokens,
    "fused blocks": _fused,
}
