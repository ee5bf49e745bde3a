"""Learning rates: by kind of layer, and over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..layers import LAYERS, PrismMultihead, own_operators
from .schema import Train

#: A packed attention is made of these, and of what it keeps.
_KERNELS = tuple(layer for layer in LAYERS if layer is not PrismMultihead)
_NORMS = ("Norm",)


def parameters_by_kind(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters as "kernel" (the paper's operators, and registered ones), "norm" and "dense".

    Each is there once, in order.
    """
    groups: dict[str, list[nn.Parameter]] = {"kernel": [], "norm": [], "dense": []}
    seen: set[int] = set()
    kernels = (*_KERNELS, *own_operators().values())
    for module in model.modules():
        kind = "kernel" if isinstance(module, kernels) else "norm" if _is_norm(module) else "dense"
        for parameter in module.parameters(recurse=isinstance(module, kernels)):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups[kind].append(parameter)
    return groups


def adam(model: nn.Module, train: Train, rate: float | None = None) -> torch.optim.Optimizer:
    """Adam over a model, one parameter group a kind of layer.

    Args:
        rate: in place of the recipe's learning rate.
    """
    base = train.rate if rate is None else rate
    factors = {"kernel": train.rates.kernel, "norm": train.rates.norm, "dense": train.rates.dense}
    groups = [
        {"params": parameters, "lr": base * factors[kind], "initial_lr": base * factors[kind], "kind": kind}
        for kind, parameters in parameters_by_kind(model).items()
        if parameters
    ]
    make = torch.optim.AdamW if train.weight_decay else torch.optim.Adam
    made = make(groups, lr=base, betas=train.betas, eps=train.eps, weight_decay=train.weight_decay, fused=True)
    made.register_load_state_dict_post_hook(_fused_again)
    return made


def _fused_again(optimizer: torch.optim.Optimizer) -> None:
    """A state written by another Adam says how that one computed."""
    for group in optimizer.param_groups:
        group["fused"] = True


def scheduled(train: Train, step: int, steps: int, seconds: float = 0.0) -> float:
    """The factor on the learning rate at `step` (from 0) of `steps`.

    A schedule that falls ends with the run: where `train.max_minutes` runs out before the steps do, it follows the
    clock, which runs from the first second, warm-up included.

    Args:
        seconds: how long the run has trained.
    """
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    if train.schedule == "constant":
        return 1.0
    done = progress(train, step - train.warmup_steps, steps - train.warmup_steps, seconds)
    left = 1 - done if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return train.final_rate + (1 - train.final_rate) * left


def progress(train: Train, step: int, steps: int, seconds: float) -> float:
    """How much of a run is over, from 0 to 1: by its steps, or by the clock where its minutes run out before."""
    done = step / max(1, steps)
    if train.max_minutes is not None:
        done = max(done, seconds / (60 * train.max_minutes))
    return min(1.0, done)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Put every group at `factor` of its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _is_norm(module: nn.Module) -> bool:
    return any(word in type(module).__name__ for word in _NORMS)
