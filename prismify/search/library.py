"""The candidates as modules, while they learn from the blocks whose places they may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..errors import RecipeError
from ..layers import build_operator
from ..plan import Plan
from ..rewrite import copied, replay
from ..training.blockwise import fits, moments_of, start_narrowed, taught_by, wrapped
from .ladder import KEPT, Entry


class Library(nn.Module):
    """Every candidate of every block; `pupils` holds them by the place of their entry.

    What a candidate keeps of its block (norms, biases, layers that its policy leaves) starts as the model has it and
    learns as well; blocks within a block stay as they are, for they have candidates of their own.

    Args:
        model: the trained one, which is left as it is.
        plan: any plan of the model.
        entries: of `ladder_of`; blocks as they are need no module.
    """

    def __init__(self, model: nn.Module, plan: Plan, entries: Iterable[Entry]) -> None:
        super().__init__()
        self.entries = {str(i): entry for i, entry in enumerate(entries) if entry.candidate != KEPT}
        blocks = {entry.block for entry in self.entries.values()}
        self.pupils = nn.ModuleDict({key: _pupil(model, plan, e, blocks) for key, e in self.entries.items()})

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take up what an earlier start had learned.

        Raises:
            RecipeError: those were other candidates.
        """
        own = {name: value.shape for name, value in self.state_dict().items()}
        if own != {name: value.shape for name, value in state_dict.items()}:
            raise RecipeError("the folder holds a search among other candidates: name another output, or add --restart")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def fit_to(self, model: nn.Module, run_model: Callable[[], Any], positions: int) -> int:
        """Start the replaced layers from the weights nearest to the model's on its own inputs, in closed form.

        Returns:
            how many layers, over all candidates, were fitted; for the others there is no closed form.
        """
        layers = dict.fromkeys(row.name for entry in self.entries.values() for row in _replaced(entry))
        moments = moments_of(model, layers, run_model, positions)
        narrowed = 0
        for key, entry in self.entries.items():
            started = start_narrowed(_replaced(entry), model, self.pupils[key], moments, entry.block)
            narrowed += len(started)
        return narrowed + sum(
            fits(self.pupils[key].get_submodule(row.name[len(entry.block) + 1 :]), moments[row.name])
            for key, entry in self.entries.items()
            for row in _replaced(entry)
            if row.name in moments
        )

    def learn(
        self,
        model: nn.Module,
        variances: Mapping[str, list[float]],
        run_model: Callable[[], Any],
        backward: Callable[[Tensor], None],
    ) -> dict[str, Tensor]:
        """Every candidate learns on what the model gives its block, in one pass of the model.

        Returns:
            key of a candidate -> its error over the output's variance, of the last call.
        """
        of_blocks: dict[str, dict[str, nn.Module]] = {}
        for key, entry in self.entries.items():
            if entry.block in variances:
                of_blocks.setdefault(entry.block, {})[key] = self.pupils[key]
        found = taught_by(model, of_blocks, variances, run_model, backward)
        return {key: errors[-1] for key, errors in found.items()}

    @contextmanager
    def in_place(self, model: nn.Module, keys: Iterable[str]) -> Iterator[None]:
        """Let candidates run in the places of the model's blocks, at most one for each, for a while."""
        chosen = {self.entries[key].block: self.pupils[key] for key in keys}
        with ExitStack() as stack:
            for block, pupil in chosen.items():
                # A block within a chosen block runs where that one's candidate holds it.
                outer = max((other for other in chosen if block.startswith(f"{other}.")), key=len, default=None)
                holder = model if outer is None else chosen[outer]
                name = block if outer is None else block[len(outer) + 1 :]
                stack.enter_context(wrapped(holder, [name], partial(_instead, pupil)))
            yield

    def weights_of(self, key: str) -> dict[str, Tensor]:
        """What a candidate's model holds under its block's name, but for blocks within: name -> tensor."""
        entry = self.entries[key]
        inner = tuple(f"{block}." for block in _within(entry.block, {e.block for e in self.entries.values()}))
        state = {f"{entry.block}.{name}": value for name, value in self.pupils[key].state_dict().items()}
        return {name: value for name, value in state.items() if not name.startswith(inner)}


def _instead(pupil: nn.Module, block: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    return pupil


def _pupil(model: nn.Module, plan: Plan, entry: Entry, blocks: set[str]) -> nn.Module:
    block = model.get_submodule(entry.block)
    rows = _replaced(entry)
    if rows and rows[0].name == entry.block:
        assert rows[0].operator is not None
        return build_operator(rows[0].operator, block).requires_grad_(True).train()
    own = tuple(dataclasses.replace(row, name=row.name[len(entry.block) + 1 :]) for row in rows)
    pupil = copied(block, {}, {}).requires_grad_(True)
    for name in _within(entry.block, blocks):
        pupil.get_submodule(name[len(entry.block) + 1 :]).requires_grad_(False)
    replay(pupil, dataclasses.replace(plan, layers=own))
    return pupil.train()


def _replaced(entry: Entry) -> list[Any]:
    return [row for row in entry.rows if row.operator is not None]


def _within(block: str, blocks: Iterable[str]) -> list[str]:
    return [other for other in blocks if other.startswith(f"{block}.")]
