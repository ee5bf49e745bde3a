"""The CUDA engine on a GPU against the definition in float64; skips where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prismify.kernels import deep_prism, explain
from prismify.kernels.cuda import support as cuda
from prismify.kernels.problem import Geometry, make_problem
from tests.kernels.cases import Case, definition, geometries, kernels, shapes
from tests.tolerances import exact, rounded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.unavailable() is not None, reason=str(cuda.unavailable())),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check(case: Case) -> None:
    u, weight, bias = case.inputs()
    leaves = [x.detach().cuda().requires_grad_() for x in (u, weight, bias) if x is not None]
    output = deep_prism(leaves[0], leaves[1], leaves[2] if bias is not None else None, **case.geometry)
    cotangent = torch.randn_like(output)
    ours = [output, *torch.autograd.grad(output, leaves, cotangent)]
    for a, b in zip(ours, definition(case, u, weight, bias, cotangent.cpu()), strict=True):
        rounded(a.cpu(), b, torch.bfloat16 if case.dtype.itemsize == 2 else case.dtype)


@pytest.mark.parametrize("case", [*shapes(), *geometries(), *kernels()], ids=str)
def test_against_the_definition(case):
    for dtype in DTYPES:
        check(replace(case, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_every_kind(dtype):
    check(Case(3, depth=70, size=(33, 40), dtype=dtype))
    check(Case(3, depth=70, size=(33, 40), dtype=dtype, layout="channels_last"))


def test_it_serves_and_repeats_itself():
    problem = make_problem((4, 64, 32, 32), (3, 3, 3), 0, Geometry(padding=(1, 1)))
    assert explain(problem, "cuda", torch.float32)["engine"] == "triton"
    u, weight = torch.randn(4, 64, 32, 32, device="cuda"), torch.randn(3, 3, 3, device="cuda", requires_grad=True)
    first, second = (
        torch.autograd.grad(deep_prism(u, weight, padding=(1, 1)).square().sum(), weight)[0] for _ in range(2)
    )
    exact(first, second)


def test_more_than_two_to_the_31_elements():
    if torch.cuda.get_device_properties(0).total_memory < 40 << 30:
        pytest.skip("needs 40 GiB")
    u = torch.zeros(1, 2100, 1024, 1024, device="cuda", dtype=torch.bfloat16)
    u[0, -1, -1, -1] = 1
    weight = torch.arange(27.0, device="cuda").view(3, 3, 3).bfloat16()
    exact(deep_prism(u, weight, padding=(1, 1))[0, -2:, -2:, -2:], weight[1:, 1:, 1:].flip(0, 1, 2))
