"""The CUDA engine without a GPU: its kernels in Triton's interpreter, and compiled for real devices.

The interpreter runs every operation in Python, so shapes are tiny and blocks smaller still.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from prismify.kernels.cuda import support as cuda
from prismify.kernels.problem import Geometry, make_problem
from tests.kernels.cases import Case
from tests.kernels.interpreted import CHECKS, problem_of

triton = pytest.importorskip("triton")


@pytest.fixture(scope="module")
def interpreted():
    """What went wrong with each check, in a process of its own: Triton decides at import to interpret."""
    command = [sys.executable, "-W", "error", "-c", "from tests.kernels.interpreted import main; main()"]
    process = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("check", CHECKS)
def test_interpreted(check, interpreted):
    assert interpreted[check] == ""


def test_what_it_serves():
    def refusal(weight=(3, 3, 3), dtype=torch.float32, **geometry):
        return cuda.why_not(make_problem((1, 64, 9, 9), weight, 0, Geometry(**geometry)), dtype)

    assert refusal() is None
    assert refusal(dtype=torch.bfloat16, stride=(2, 2), topology="circular") is None
    assert "float64" in refusal(dtype=torch.float64)
    assert "taps" in refusal((3, 7, 7))
    assert "taps" in refusal((5, 5, 5))
    assert "volumes" in refusal((32, 32, 1, 3, 3))
    assert "dense" in refusal((16, 16, 1, 3, 3))


class Compile:
    """Stands in for a kernel: compiles what would be launched, for a GPU that need not be there."""

    def __init__(self, kernel, capability):
        self.kernel, self.capability, self.code = kernel, capability, []

    def __getitem__(self, grid):
        def launch(*args, num_warps, enable_fp_fusion, **constants):
            from triton.backends.compiler import GPUTarget

            types = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
            signature, values, attributes = {}, {}, {}
            for i, name in enumerate(self.kernel.arg_names):
                value = args[i] if i < len(args) else constants[name]
                if isinstance(value, torch.Tensor):
                    signature[name] = types[value.dtype]
                    attributes[(i,)] = [["tt.divisibility", 16]]
                elif self.kernel.params[i].is_constexpr or value == 1:
                    signature[name], values[(i,)] = "constexpr", value
                else:
                    signature[name] = "i32"
            source = triton.compiler.ASTSource(self.kernel, signature, values, attributes)
            options = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}
            target = GPUTarget("cuda", self.capability, 32)
            self.code.append(triton.compile(source, target=target, options=options))

        return launch


@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.float32), (90, torch.bfloat16)])
def test_compiles_for_gpus(capability, dtype, monkeypatch):
    from prismify.kernels.cuda import kernels, run

    stencil, correlation = Compile(kernels.stencil_kernel, capability), Compile(kernels.correlate_kernel, capability)
    monkeypatch.setattr(kernels, "stencil_kernel", stencil)
    monkeypatch.setattr(kernels, "correlate_kernel", correlation)
    case = Case(2, depth=64, size=(32, 32), dtype=dtype)
    u, weight, bias = (x.detach() for x in case.inputs())
    run.forward(u, weight, bias, problem_of(case))
    run.weight_grad(u, u, problem_of(case), tuple(weight.shape))
    # Sums and weights must fit the registers: nothing spills to memory.
    for code in (*stencil.code, *correlation.code):
        assert code.asm["cubin"]
        assert ".local" not in code.asm["ptx"]
