"""What a model's blocks returned in one pass, so that passes that differ behind them need not run them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..training.blockwise import apart, wrapped


class Replay:
    """The blocks of a model, each run once in a pass.

    Args:
        blocks: qualified names. Run as they are: those that a pass runs several times or not at all, and those that
            write to what they are given, which others may read.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str]) -> None:
        self._model, self._blocks = model, blocks
        self._began: dict[str, list[int]] = {}
        self._ended: dict[str, list[tuple[int, Any]]] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note what blocks return in the pass that is run meanwhile; what was noted before is forgotten."""
        self._began.clear()
        self._ended.clear()
        ticks = count()

        def noting(block: str, forward: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                self._began.setdefault(block, []).append(next(ticks))
                given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
                before = [value._version for value in given]
                output = forward(*args, **kwargs)
                if [value._version for value in given] == before:
                    self._ended.setdefault(block, []).append((next(ticks), apart(output)))
                return output

            return run

        with wrapped(self._model, self._blocks, noting):
            yield

    @contextmanager
    def up_to(self, block: str) -> Iterator[None]:
        """Blocks that had ended when this one began return what they did, in a pass on the same inputs."""
        first = min(self._began.get(block, [0]))
        once = [name for name, calls in self._ended.items() if len(calls) == len(self._began[name]) == 1]
        known = [name for name in once if self._ended[name][0][0] < first]
        with wrapped(self._model, known, self._again):
            yield

    def _again(self, block: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        return partial(_copy_of, self._ended[block][0][1])


def _copy_of(output: Any, *args: Any, **kwargs: Any) -> Any:
    return apart(output)  # whoever is given it may write to it
