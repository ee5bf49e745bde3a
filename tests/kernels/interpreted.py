"""Checks of the CUDA engine in Triton's interpreter, run by `test_triton` in a process of their own."""

from __future__ import annotations

import json
import traceback
from dataclasses import replace
from functools import partial
from unittest import mock

import torch

from prismify.kernels.problem import Geometry, Problem, make_problem
from tests.kernels.cases import Case, definition
from tests.tolerances import exact, rounded


def problem_of(case: Case) -> Problem:
    p, q = case.volumes
    bias_size = {None: 0, "scalar": q, "channel": q * case.depth}[case.bias]
    shape = (case.batch, p * case.depth, *case.size)
    return make_problem(shape, (q, p, *case.kernel), bias_size, Geometry(**case.geometry))


F32 = Case(1, depth=4, size=(2, 3), dtype=torch.float32)
CASES = [
    replace(F32, batch=2, depth=3, size=(3, 4)),
    replace(F32, layout="channels_last", bias="channel"),
    replace(F32, depth=2, size=(1, 1), bias="channel"),
    replace(F32, layout="transposed", bias="channel", dtype=torch.float16),
    replace(F32, geometry={"padding": (1, 1), "padding_mode": "reflect", "topology": "circular"}),
    replace(F32, geometry={"padding": (1, 0), "padding_mode": "circular", "topology": "replicate"}),
    replace(F32, depth=3, size=(3, 3), geometry={"padding": (1, 1), "stride": (2, 2)}),
    replace(F32, volumes=(2, 2), depth=2, size=(2, 2), bias="channel"),
    replace(F32, depth=3, size=(4, 3), dtype=torch.bfloat16, geometry={"padding": (2, 1), "dilation": (2, 1)}),
    replace(F32, kernel=(5, 1, 2), dtype=torch.float16, geometry={}),
    replace(F32, kernel=(3, 1, 1), geometry={}),
    replace(F32, batch=5, depth=1, size=(1, 9), kernel=(1, 1, 3), geometry={"padding": (0, 1)}),
]


def against_the_definition(case: Case) -> None:
    from prismify.kernels.cuda import run

    u, weight, bias = (None if x is None else x.detach() for x in case.inputs())
    problem = problem_of(case)
    output = run.forward(u, weight, bias, problem)
    cotangent = torch.randn_like(output)
    ours = [output, run.input_grad(cotangent, weight, problem)]
    ours += run.weight_grad(cotangent, u, problem, tuple(weight.shape))
    for a, b in zip(ours, definition(case, u, weight, bias, cotangent), strict=True):
        assert a.dtype == case.dtype
        rounded(a, b)


def empty_batch() -> None:
    from prismify.kernels.cuda import run

    u, weight = torch.zeros(0, 5, 3, 3), torch.zeros(3, 3, 3)
    problem = make_problem(u.shape, weight.shape, 1, Geometry(padding=(1, 1)))
    assert run.forward(u, weight, torch.zeros(1), problem).shape == u.shape
    assert run.input_grad(u, weight, problem).shape == u.shape
    exact(run.weight_grad(u, u, problem, (3, 3, 3))[0], weight)


def wide_offsets() -> None:
    """The form for depth positions of more than 2^31 elements, on few."""
    from prismify.kernels.cuda import run

    with mock.patch.object(run, "_wide", return_value=True):
        against_the_definition(replace(F32, depth=2, size=(2, 2)))


CHECKS = {
    **{str(case): partial(against_the_definition, case) for case in CASES},
    "empty batch": empty_batch,
    "wide offsets": wide_offsets,
}


def main() -> None:
    """Print what went wrong with each check as JSON; an empty string where nothing did."""
    from prismify.kernels.cuda import run

    torch.manual_seed(0)
    run.STENCIL = run.CORRELATION = run.Blocks(8, 3, 1)
    run.SLICES = 3
    told = {}
    for name, check in CHECKS.items():
        try:
            check()
            told[name] = ""
        except Exception:
            told[name] = traceback.format_exc()
    print(json.dumps(told))
