"""How long the autoencoders of Table 4 and Figure 1 train, and how wide they are. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Budget:
    """What every point is given.

    Args:
        name: as `--budget` takes it.
        recipe: that methods change.
        channels: C of the dense model.
        minutes: of training; None trains as long as the recipe says.
        seeds: how many.
        rates: family of methods -> learning rate, where the recipe's, which is that of 27 numbers a layer, is not best.
        sets: changes for all.
    """

    name: str
    recipe: str
    channels: int
    minutes: float | None
    seeds: int
    rates: Mapping[str, float] = field(default_factory=dict)
    sets: tuple[str, ...] = ()


#: Found by `benchmarks/paper.py rates`, but for the dense model's, which is `benchmarks/gap.py`'s.
_FAST_RATES = {
    "group convolution": 1.2e-2,
    "depthwise separable": 4e-3,
    "low rank": 1e-3,
    "narrow": 1.2e-2,
    "dense": 1e-3,
}
BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("laptop", "cifar10-fast", 64, 10.0, 3, _FAST_RATES),
        Budget(
            "gpu",
            "cifar10-fast",
            256,
            6.0,
            2,
            _FAST_RATES,
            ("train.device=cuda", "train.mixed_precision=bf16", "train.batch_size=256"),
        ),
        Budget("paper", "cifar10-paper", 256, None, 1),
    )
}
