"""Norm, activation, operator and residual sum in one, against the composition in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prismify.errors import ShapeError
from prismify.kernels import cpu, norm_act_deep_prism, reference
from tests.kernels.cases import LAYOUTS, Case, geometries, kernels, laid_out, shapes
from tests.tolerances import rounded

F32 = torch.float32


@pytest.fixture(autouse=True)
def _fuse_few_groups(monkeypatch):
    """Small cases go to the kernels, too."""
    monkeypatch.setattr(cpu, "MIN_GROUPS", 1)


@dataclass(frozen=True)
class Block:
    """A call: the operator's case and what surrounds it."""

    case: Case
    groups: int = 1
    affine: bool = True
    activation: str = "silu"
    residual: str | None = None

    def __str__(self) -> str:
        return f"{self.case} {self.groups} groups {self.affine} {self.activation} {self.residual}"

    def inputs(self) -> dict[str, Tensor]:
        """Fresh random leaves by argument name, of a mean and spread that a norm has to take away."""
        x, weight, bias = self.case.inputs()
        leaves = {"x": laid_out((x.detach() * 2 + 0.5), self.case.layout), "weight": weight.detach()}
        if bias is not None:
            leaves["bias"] = bias.detach()
        if self.affine:
            leaves["norm_weight"] = (torch.randn(x.shape[1]) * 0.5 + 1).to(x.dtype)
            leaves["norm_bias"] = torch.randn(x.shape[1]).to(x.dtype)
        if self.residual is not None:
            shape = reference.deep_prism(x.detach().double(), weight.detach().double(), **self.case.geometry).shape
            leaves["residual"] = laid_out(torch.randn(shape).to(x.dtype), self.residual)
        return {name: leaf.requires_grad_() for name, leaf in leaves.items()}

    def call(self, leaves: dict[str, Tensor]) -> Tensor:
        return norm_act_deep_prism(**leaves, num_groups=self.groups, activation=self.activation, **self.case.geometry)

    def definition(self, leaves: dict[str, Tensor]) -> Tensor:
        u = F.group_norm(leaves["x"], self.groups, leaves.get("norm_weight"), leaves.get("norm_bias"))
        u = F.silu(u) if self.activation == "silu" else u
        y = reference.deep_prism(u, leaves["weight"], leaves.get("bias"), **self.case.geometry)
        return y + leaves["residual"] if "residual" in leaves else y


def check(block: Block) -> None:
    leaves = block.inputs()
    doubles = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    output, wanted = block.call(leaves), block.definition(doubles)
    grad = torch.randn_like(output)
    ours = torch.autograd.grad(output, list(leaves.values()), grad)
    theirs = torch.autograd.grad(wanted, list(doubles.values()), grad.double())
    assert output.dtype == block.case.dtype
    rounded(output, wanted.detach(), slack(block))
    for name, a, b in zip(leaves, ours, theirs, strict=True):
        assert a.dtype == block.case.dtype, name
        rounded(a, b, slack(block))


def slack(block: Block) -> torch.dtype:
    return block.case.dtype


def mixed(cases: list[Case]) -> list[Block]:
    """Groups, activations, affine norms and residuals, spread over the operator's cases."""
    blocks = []
    for i, case in enumerate(cases):
        channels = case.volumes[0] * case.depth
        groups = [g for g in (1, 2, 3, channels) if channels % g == 0]
        residual = (None, "contiguous", "channels_last", "strided")[i % 4]
        activation = "none" if i % 5 == 4 else "silu"
        blocks.append(Block(case, groups[i % len(groups)], i % 3 != 2, activation, residual))
    return blocks


@pytest.mark.parametrize("block", mixed([replace(c, dtype=F32) for c in geometries()]), ids=str)
def test_geometries(block):
    check(block)


@pytest.mark.parametrize("block", mixed(kernels()), ids=str)
def test_kernels_types_and_layouts(block):
    check(block)


# One number a group has no spread: its gradients are differences of equal numbers.
SHAPES = [case for case in shapes() if case.size[0] * case.size[1] > 1]


@pytest.mark.parametrize("block", mixed(SHAPES), ids=str)
def test_odd_and_tiny_shapes(block):
    check(block)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 8, 40])
def test_large_enough_for_threads(layout, groups):
    case = Case(2, depth=40, size=(32, 32), dtype=F32, layout=layout)
    for residual in (None, layout, "strided"):
        check(Block(case, groups, residual=residual))


def test_wrong_arguments_are_named():
    x, weight = torch.zeros(1, 6, 4, 4), torch.zeros(3, 3, 3)
    with pytest.raises(ShapeError, match="gelu"):
        norm_act_deep_prism(x, weight, num_groups=2, activation="gelu")
    with pytest.raises(ShapeError, match="residual"):
        norm_act_deep_prism(x, weight, num_groups=2, residual=x)
    with pytest.raises(ShapeError, match="odd"):
        norm_act_deep_prism(x, torch.zeros(2, 3, 3), num_groups=2)
    with pytest.raises(RuntimeError, match="divisible"):
        norm_act_deep_prism(x, weight, num_groups=4)
