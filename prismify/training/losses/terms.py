"""The terms of an autoencoder's loss (Sec. 4.1, Eqs. 6-9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

#: LDM keeps its adaptive weight within this bound.
_MOST_ADAPTIVE = 1e4


def reconstruction_loss(output: Tensor, target: Tensor, kind: Literal["l2", "l1"]) -> Tensor:
    """Mean squared (Eq. 7) or mean absolute error over all numbers."""
    return F.mse_loss(output, target) if kind == "l2" else F.l1_loss(output, target)


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of diagonal Gaussians from the standard one (Eq. 8), summed over a latent, meaned over the batch.

    Args:
        mean, log_variance: shape (B, ...).
    """
    each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return each.flatten(1).sum(1).mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss on its logits (Eq. 9; Geometric GAN)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """What the discriminator's logits on reconstructions cost the autoencoder."""
    return -fake.mean()


def adaptive_weight(
    rest: Tensor, adversarial: Tensor, last_layer: Tensor, average: Callable[[Tensor], Tensor]
) -> Tensor:
    """How much larger the other terms' gradient is than the adversarial one's, at the last layer (LDM).

    Args:
        rest, adversarial: scalar losses.
        last_layer: the weight that makes the output.
        average: over processes, so that all use the same weight and as many as one would.
    """
    gradients = torch.autograd.grad(rest, last_layer, retain_graph=True)[0]
    opposing = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    both = average(torch.stack([gradients, opposing]).float())
    ratio = both[0].norm() / (both[1].norm() + 1e-4)
    weight: Tensor = ratio.clamp(0, _MOST_ADAPTIVE).detach()
    return weight


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over the teacher's variance: 0 is equal, 1 as bad as the teacher's mean."""
    teacher = teacher.detach().float()
    variance = (teacher - teacher.mean()).square().mean()
    return F.mse_loss(student.float(), teacher) / (variance + 1e-8)


def weighted_sum(terms: Sequence[tuple[float | Tensor, Tensor]]) -> Tensor:
    """The sum of weight times loss."""
    total = terms[0][0] * terms[0][1]
    for weight, loss in terms[1:]:
        total = total + weight * loss
    return torch.as_tensor(total)
