"""One step of a model that has one optimizer: the same in every recipe but for its terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from .average import Average
from .engine import Part, Run


def take_step(
    run: Run,
    batch: Iterable[Part],
    module: Any,
    optimizer: Any,
    average: Average,
    terms_of: Callable[[Part], dict[str, Tensor]],
) -> None:
    """Gradients of all parts of a batch, one step of the optimizer, and the average after it.

    Args:
        module: as `run.processes.prepare` returned it, around a `model` that is averaged.
        terms_of: every term of the loss on one part of the batch, and what is minimised of them as "total".
    """
    optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    for part in batch:
        with run.processes.share_gradients(part, module):
            terms = terms_of(part)
            run.processes.backward(terms["total"])
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / run.shares.parts
    values = run.checked(sums)
    norm = run.processes.clip(module, run.recipe.train.clip)
    optimizer.step()
    average.update(run.processes.bare(module).model, run.step + 1)
    rate = optimizer.param_groups[0]["lr"]
    run.finished(lambda: {**values, "gradient_norm": float(norm), "learning_rate": rate})
