"""The engines in plain torch: the definition and the fast formulation, with gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .. import reference
from ..adjoint import plain_adjoint
from ..problem import HALF, Problem
from . import plain

Formulation = Callable[[Tensor, Tensor, Tensor | None, Problem], Tensor]


@dataclass(frozen=True)
class ByAutograd:
    """An engine whose gradients autograd derives from its forward pass.

    Args:
        forward: the operator, differentiable.
    """

    forward: Formulation

    def input_grad(self, grad: Tensor, weight: Tensor, problem: Problem) -> Tensor:
        """The input's gradient, (B, P*V, H, W), from the output's."""
        if problem.geometry.padding_mode == "zeros":  # also where autograd cannot follow, as in inference mode
            return plain_adjoint(grad, weight, problem.size, problem.geometry)
        shape = (problem.batch, problem.volumes[0] * problem.depth, *problem.size)
        with recording():
            u = grad.new_zeros(shape).requires_grad_()
            output = self.forward(u, weight.detach(), None, problem)
            return torch.autograd.grad(output, u, grad)[0]

    def weight_grad(
        self, grad: Tensor, u: Tensor, problem: Problem, weight_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of weight and bias (None without one) from the output's gradient and the input."""
        with recording():
            weight = grad.new_zeros(weight_shape).requires_grad_()
            output = self.forward(u.detach(), weight, None, problem)
            weight_grad = torch.autograd.grad(output, weight, grad)[0]
        if not problem.bias_size:
            return weight_grad, None
        channels = grad.sum((0, 2, 3), dtype=torch.float32 if grad.dtype in HALF else grad.dtype)
        volumes = problem.volumes[1]
        scalar = problem.bias_size == volumes
        return weight_grad, (channels.view(volumes, -1).sum(1) if scalar else channels).to(grad.dtype)


@contextmanager
def recording() -> Iterator[None]:
    """Let autograd record, also inside an operator of torch's registry, which runs beneath autograd."""
    excluded = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with excluded, torch.enable_grad():
        yield


def _fast(u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
    return plain.deep_prism(u, weight, bias, problem.geometry)


def _definition(u: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
    words = asdict(problem.geometry)
    if u.dtype in HALF and u.dtype == weight.dtype:
        return reference.deep_prism(u.float(), weight.float(), None if bias is None else bias.float(), **words).to(
            u.dtype
        )
    return reference.deep_prism(u, weight, bias, **words)


FAST = ByAutograd(_fast)
DEFINITION = ByAutograd(_definition)
