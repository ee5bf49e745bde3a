"""Every engine that runs here against the definition in float64: the operator and all gradients."""

from __future__ import annotations

import pytest
import torch

from prismify.kernels import deep_prism, prism, reference, use_engine
from tests.kernels.cases import TOPOLOGIES, Case, definition, geometries, kernels, shapes, widths
from tests.tolerances import exact, rounded

ENGINES = ("numba", "torch")


def check(case: Case, engine: str) -> None:
    u, weight, bias = case.inputs()
    with use_engine(engine):
        output = deep_prism(u, weight, bias, **case.geometry)
        grad = torch.randn_like(output)
        leaves = [x for x in (u, weight, bias) if x is not None]
        ours = [output, *torch.autograd.grad(output, leaves, grad)]
    wanted = definition(case, u, weight, bias, grad)
    for name, a, b in zip(("output", "u", "weight", "bias"), ours, wanted, strict=False):
        assert a.dtype == case.dtype, name
        rounded(a, b)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", shapes(), ids=str)
def test_odd_and_tiny_shapes(case, engine):
    check(case, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", geometries(), ids=str)
def test_geometries(case, engine):
    check(case, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", kernels(), ids=str)
def test_kernels_types_and_layouts(case, engine):
    check(case, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", widths(), ids=str)
def test_widths(case, engine):
    check(case, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_large_enough_for_bands_and_threads(engine):
    check(Case(2, (1, 1), 40, (32, 32), dtype=torch.float32), engine)
    check(Case(2, (2, 1), 24, (32, 32), dtype=torch.float32, bias="channel"), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("bias", [None, "scalar", "channel"])
@pytest.mark.parametrize(
    ("dim", "shape", "layout"),
    [
        (-1, (2, 5, 18), torch.contiguous_format),
        (-1, (18,), torch.contiguous_format),
        (-1, (2, 3, 4, 18), torch.channels_last),
        (1, (2, 18), torch.contiguous_format),
        (1, (2, 18, 7), torch.contiguous_format),
        (1, (2, 18, 3, 4), torch.contiguous_format),
        (1, (2, 18, 3, 4), torch.channels_last),
    ],
)
def test_prism(engine, topology, bias, dim, shape, layout):
    for p, q, k in ((1, 1, 3), (2, 3, 3)):
        u = torch.randn(shape, dtype=torch.float64)
        u = u.contiguous(memory_format=layout).requires_grad_()
        weight = torch.randn(q, p, k, dtype=torch.float64, requires_grad=True)
        leaves = [u, weight]
        if bias is not None:
            size = q if bias == "scalar" else q * 18 // p
            leaves.append(torch.randn(size, dtype=torch.float64, requires_grad=True))
        wanted = reference.prism(*leaves, dim=dim, topology=topology)
        grad = torch.randn_like(wanted)
        with use_engine(engine):
            output = prism(*leaves, dim=dim, topology=topology)
            gradients = torch.autograd.grad(output, leaves, grad)
        rounded(output, wanted.detach())
        for a, b in zip(gradients, torch.autograd.grad(wanted, leaves, grad), strict=True):
            rounded(a, b)


@pytest.mark.parametrize("engine", ENGINES)
def test_kernel_without_volumes(engine):
    u, weight = torch.randn(1, 6, 5, 5, dtype=torch.float64), torch.randn(3, 3, 3, dtype=torch.float64)
    with use_engine(engine):
        exact(deep_prism(u, weight, padding=(1, 1)), deep_prism(u, weight[None, None], padding=(1, 1)))
        tokens = torch.randn(4, 6, dtype=torch.float64)
        exact(prism(tokens, weight[0, 0]), prism(tokens, weight[0, 0][None, None]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("geometry", [{}, {"stride": (2, 2)}, {"padding_mode": "circular", "topology": "replicate"}])
def test_empty_batch(engine, geometry):
    u = torch.zeros(0, 6, 5, 5, requires_grad=True)
    weight, bias = torch.randn(3, 3, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    with use_engine(engine):
        output = deep_prism(u, weight, bias, padding=(1, 1), **geometry)
        output.sum().backward()
    assert output.shape == (0, 6, 5, 5) if "stride" not in geometry else (0, 6, 3, 3)
    assert u.grad.shape == u.shape
    assert not weight.grad.any()
    assert not bias.grad.any()
    assert prism(torch.zeros(2, 0, 6).double(), torch.randn(3).double()).shape == (2, 0, 6)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_only_where_asked(engine):
    u, weight, bias = Case(dtype=torch.float32).inputs()
    frozen = [x.detach() for x in (u, weight, bias)]
    for i in range(3):
        leaves = [*frozen]
        leaves[i] = leaves[i].clone().requires_grad_()
        with use_engine(engine):
            deep_prism(*leaves, padding=(1, 1)).sum().backward()
        assert leaves[i].grad is not None
        assert all(x.grad is None for j, x in enumerate(leaves) if j != i)
