"""How long the autoencoders of Table 4 and Figure 1 train, and how wide they are. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What every point is given.

    Args:
        name: as `--budget` takes it.
        recipe: that methods change.
        channels: C of the dense model.
        minutes: of training; None trains as long as the recipe says.
        seeds: how many.
        dense: changes of the recipe where weights are dense, whose rate is not that of 27 numbers a layer.
        sets: changes for all.
    """

    name: str
    recipe: str
    channels: int
    minutes: float | None
    seeds: int
    dense: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


_FAST_DENSE = ("train.learning_rate=1e-3",)
BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("laptop", "cifar10-fast", 64, 10.0, 3, _FAST_DENSE),
        Budget(
            "gpu",
            "cifar10-fast",
            256,
            6.0,
            2,
            _FAST_DENSE,
            ("train.device=cuda", "train.mixed_precision=bf16", "train.batch_size=256"),
        ),
        Budget("paper", "cifar10-paper", 256, None, 1),
    )
}
