"""The processes of a run: what each computes of a step, and what all of them agree on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Shares
from ..schema import Train


@dataclass(frozen=True)
class Part:
    """A process's share of one part of a step's batch, with the images' classes and captions, where they have them."""

    images: Tensor
    index: int
    last: bool
    labels: Tensor | None = None
    captions: list[str] | None = None


class Processes:
    """This process among those of a run; `accelerator` is Accelerate's view of them.

    Args:
        train: batch and accumulation, which the processes share.
    """

    def __init__(self, accelerator: Any, train: Train) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.shares = Shares(train.batch_size, train.accumulation, accelerator.num_processes, accelerator.process_index)

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return bool(self.accelerator.is_main_process)

    def wait(self) -> None:
        """Go on when every process is here."""
        self.accelerator.wait_for_everyone()

    def prepare(self, module: nn.Module | None, optimizer: Any) -> tuple[Any, Any]:
        """A module and its optimizer as this machine runs them: distributed, in mixed precision."""
        if module is None:
            return None, None
        prepared: tuple[Any, Any] = self.accelerator.prepare(module, optimizer)
        return prepared

    def bare(self, module: Any) -> Any:
        """The module that `prepare` was given."""
        return self.accelerator.unwrap_model(module)

    def share_gradients(self, part: Part, *modules: nn.Module) -> AbstractContextManager[None]:
        """Gradients of all parts but the last are only added up here, and then averaged over processes at once."""
        if part.last or self.shares.processes == 1:
            return nullcontext()
        return _unsynchronised(self.accelerator, modules)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part's mean loss, so that they are those of the step's mean."""
        self.accelerator.backward(loss / self.shares.parts)

    def clip(self, module: nn.Module, most: float | None) -> Tensor:
        """Cut gradients down to a norm; returns the norm they had."""
        norm: Tensor = self.accelerator.clip_grad_norm_(module.parameters(), math.inf if most is None else most)
        return norm.detach()

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for what runs outside a prepared module's own pass."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def average_gradients(self, module: nn.Module) -> None:
        """Average gradients that came about outside a module's own pass, which averages its own."""
        if self.shares.processes == 1:
            return
        for parameter in self.bare(module).parameters():
            if parameter.grad is not None:
                parameter.grad = self.average(parameter.grad)

    def average(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.shares.processes == 1:
            return value
        reduced: Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced


@contextmanager
def _unsynchronised(accelerator: Any, modules: tuple[nn.Module, ...]) -> Iterator[None]:
    """Gradients of modules are only added up inside, and not averaged over the processes."""
    if not modules:
        yield
        return
    with accelerator.no_sync(modules[0]), _unsynchronised(accelerator, modules[1:]):
        yield
