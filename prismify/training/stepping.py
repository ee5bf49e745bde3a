"""One step of a model that has one optimizer: the same in every recipe but for its terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from .average import Average
from .engine import Part, Run

Terms = dict[str, Tensor]


def take_step(
    run: Run,
    batch: Iterable[Part],
    module: Any,
    optimizer: Any,
    average: Average,
    terms_of: Callable[[Part], Terms],
) -> None:
    """Gradients of all parts of a batch, one step of the optimizer, and the average after it.

    Args:
        module: as `run.processes.prepare` returned it, around a `model` that is averaged.
        terms_of: every term of the loss on one part of the batch, and what is minimised of them as "total".
    """

    def learn(part: Part) -> Terms:
        with run.processes.share_gradients(part, module):
            terms = terms_of(part)
            run.processes.backward(terms["total"])
        return terms

    _take_step(run, batch, module, optimizer, average, learn, lambda: None)


def take_step_apart(
    run: Run,
    batch: Iterable[Part],
    module: Any,
    optimizer: Any,
    average: Average,
    learn: Callable[[Part], Terms],
) -> None:
    """The same for terms that are differentiated where they come about, outside the module's own pass.

    Args:
        learn: adds the gradients of one part of the batch; returns its terms.
    """
    _take_step(run, batch, module, optimizer, average, learn, lambda: run.processes.average_gradients(module))


def _take_step(
    run: Run,
    batch: Iterable[Part],
    module: Any,
    optimizer: Any,
    average: Average,
    learn: Callable[[Part], Terms],
    share: Callable[[], None],
) -> None:
    optimizer.zero_grad()
    sums: Terms = {}
    for part in batch:
        for name, value in learn(part).items():
            sums[name] = sums.get(name, 0) + value.detach() / run.shares.parts
    share()
    values = run.checked(sums)
    norm = run.processes.clip(module, run.recipe.train.clip)
    optimizer.step()
    average.update(run.processes.bare(module).model, run.step + 1)
    rate = optimizer.param_groups[0]["lr"]
    run.finished(lambda: {**values, "gradient_norm": float(norm), "learning_rate": rate})
