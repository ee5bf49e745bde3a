"""Learning rates: by kind of layer, and over time."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import nn

from ..errors import RecipeError
from ..layers import LAYERS, PrismMultihead, described_operators, own_operators
from .schema import Train

#: A packed attention is made of these, and of what it keeps.
_KERNELS = tuple(layer for layer in LAYERS if layer is not PrismMultihead)
_NORMS = ("Norm",)


def parameters_by_kind(model: nn.Module, apart: Collection[str] = ()) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters as "kernel" (the paper's operators, and registered ones), "norm" and "dense".

    Each is there once, in order.

    Args:
        apart: operators, by the names that plans give them, that are kinds of their own.

    Raises:
        RecipeError: the model holds none of those.
    """
    groups: dict[str, list[nn.Parameter]] = {"kernel": [], "norm": [], "dense": [], **{name: [] for name in apart}}
    seen: set[int] = set()
    kernels = (*_KERNELS, *own_operators().values())
    names = {operator: name for name, operator in described_operators().items()}
    # Plans call it DeepPrism whatever the number of axes.
    names |= {layer: "DeepPrism" if "DeepPrism" in layer.__name__ else layer.__name__ for layer in LAYERS}
    held = {names[type(module)] for module in model.modules() if type(module) in names}
    if missing := [name for name in apart if name not in held]:
        has = f"; it has {', '.join(sorted(held))}" if held else ""
        raise RecipeError(f"train: rates: operators: the model holds no {missing[0]}{has}")
    for module in model.modules():
        if (name := names.get(type(module), "")) in apart:
            kind, whole = name, True
        else:
            whole = isinstance(module, kernels)
            kind = "kernel" if whole else "norm" if _is_norm(module) else "dense"
        for parameter in module.parameters(recurse=whole):
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
    rates = train.rates
    factors = {"kernel": rates.kernel, "norm": rates.norm, "dense": rates.dense, **rates.operators}
    groups = [
        {"params": parameters, "lr": base * factors[kind], "initial_lr": base * factors[kind], "kind": kind}
        for kind, parameters in parameters_by_kind(model, rates.operators).items()
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
