"""Blocks that learn: each from what the teacher's block of the same name is given and returns, or in the student's run.

A block's graph lives only while that block learns, so that memory is that of one block and not of the model. Of the
teacher's outputs in the student's run all are kept; `at_once` bounds how many blocks learn in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ...errors import RecipeError

#: How a term of the loss is differentiated, at once.
Backward = Callable[[Tensor], None]
#: Runs a model on a batch.
Pass = Callable[[], Any]


class Lessons:
    """The blocks that two models share.

    Args:
        student: its blocks have a `forward` like the teacher's.
        teacher: on the same device.
        variances: qualified name of a block -> of each tensor that the teacher's returns, by which errors are divided;
            see `variances_of`.
        at_once: how many learn in one step, in turn; None lets all learn.

    Raises:
        RecipeError: there is no block.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, variances: Mapping[str, list[float]], at_once: int | None = None
    ) -> None:
        if not variances:
            raise RecipeError("blocks: no layer of the model was replaced, so that no block has anything to learn")
        self.student, self.teacher, self.variances = student, teacher, dict(variances)
        self.blocks = tuple(variances)
        self.at_once = min(at_once or len(self.blocks), len(self.blocks))

    def chosen(self, step: int) -> tuple[str, ...]:
        """The blocks that learn in a step (from 0): as many as may at once, all in turn."""
        first = step * self.at_once
        return tuple(dict.fromkeys(self.blocks[(first + i) % len(self.blocks)] for i in range(self.at_once)))

    def from_teacher(self, step: int, run_teacher: Pass, backward: Backward) -> Tensor:
        """Blocks learn on what the teacher's blocks are given while the teacher runs.

        Returns:
            the mean of their relative errors, a scalar.
        """
        chosen = self.chosen(step)
        pupils = {name: {name: self.student.get_submodule(name)} for name in chosen}
        found = taught_by(self.teacher, pupils, self.variances, run_teacher, lambda e: backward(e / len(chosen)))
        return _mean([error for errors in found.values() for error in errors])

    def on_its_own(self, step: int, run_teacher: Pass, run_student: Pass, backward: Backward) -> Tensor:
        """Blocks learn to return, on what the student gives them, what the teacher's return on the teacher's.

        Returns:
            the mean of their relative errors, a scalar.
        """
        chosen = self.chosen(step)
        with torch.no_grad():
            with outputs_of(self.teacher, chosen) as wanted:
                run_teacher()
            errors: list[Tensor] = []

            def learning(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
                def learn(*args: Any, **kwargs: Any) -> Any:
                    own_args, own_kwargs = apart((args, kwargs))
                    with torch.enable_grad():
                        said = forward(*own_args, **own_kwargs)
                        if wanted[name]:
                            error = error_between(said, wanted[name].pop(0), self.variances[name])
                            backward(error / len(chosen))
                            errors.append(error.detach())
                    return tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, said)

                return learn

            # Compiled passes would look into the blocks; a block alone runs as it is written.
            with torch.compiler.set_stance("force_eager"), wrapped(self.student, chosen, learning):
                run_student()
        return _mean(errors)


def taught_by(
    teacher: nn.Module,
    pupils: Mapping[str, Mapping[str, nn.Module]],
    variances: Mapping[str, list[float]],
    run_teacher: Pass,
    backward: Backward,
) -> dict[str, list[Tensor]]:
    """Modules learn to return what the teacher's blocks return, on what those are given, while the teacher runs.

    Args:
        pupils: qualified name of a block -> by names of their own, what learns from it.
        variances: of each block's tensors, by which errors are divided.
        backward: differentiates one pupil's error.

    Returns:
        name of a pupil -> its error at every call, scalars without a history.
    """
    errors: dict[str, list[Tensor]] = {}
    given: dict[str, list[Any]] = {block: [] for block in pupils}

    def before(block: str) -> Any:
        # In front of the block: it may write to what it is given.
        return lambda _, args, kwargs: given[block].append(apart((args, kwargs)))

    def behind(block: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = given[block].pop()
            for name, pupil in pupils[block].items():
                own_args, own_kwargs = inputs if len(pupils[block]) == 1 else apart(inputs)
                with torch.enable_grad():
                    error = error_between(pupil(*own_args, **own_kwargs), output, variances[block])
                    backward(error)
                errors.setdefault(name, []).append(error.detach())

        return hook

    handles = []
    for block in pupils:
        module = teacher.get_submodule(block)
        handles += [module.register_forward_pre_hook(before(block), with_kwargs=True)]
        handles += [module.register_forward_hook(behind(block), with_kwargs=True)]
    try:
        with torch.no_grad():
            run_teacher()
    finally:
        for handle in handles:
            handle.remove()
    return errors


def apart(values: Any) -> Any:
    """The same values in tensors of their own, with no history."""
    return tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, values)


def variances_of(model: nn.Module, blocks: Sequence[str], run: Pass) -> dict[str, list[float]]:
    """Of each block that takes part in passes, the variance of every floating-point tensor that it returns."""
    sums: dict[str, Tensor] = {}  # of a block: (tensors, 3), count, values and squares

    def note(name: str) -> Any:
        def hook(_: nn.Module, given: Any, output: Any) -> None:
            values = [t.double() for t in _numbers(output)]
            new = torch.tensor(
                [[t.numel(), float(t.sum()), float(t.square().sum())] for t in values], dtype=torch.float64
            )
            sums[name] = sums[name] + new if name in sums else new

        return hook

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in blocks]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: [squares / count - (total / count) ** 2 for count, total, squares in rows.tolist()]
        for name, rows in sums.items()
    }


def error_between(said: Any, wanted: Any, variances: Sequence[float]) -> Tensor:
    """The mean, over the floating-point tensors that two blocks returned, of squared error over variance."""
    ours, theirs = _numbers(said), _numbers(wanted)
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise RecipeError(
            f"a block returns {', '.join(str(tuple(t.shape)) for t in ours) or 'nothing'}, and the teacher's "
            f"{', '.join(str(tuple(t.shape)) for t in theirs) or 'nothing'}"
        )
    pairs = zip(ours, theirs, variances, strict=True)
    return _mean([F.mse_loss(our.float(), its.float()) / (variance + 1e-8) for our, its, variance in pairs])


@contextmanager
def outputs_of(model: nn.Module, blocks: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Collect what blocks return while the model runs: name -> the output of every call."""
    found: dict[str, list[Any]] = {name: [] for name in blocks}

    def note(name: str) -> Any:
        # Copies: what comes behind a block may write to what it returned.
        return lambda _, given, output: found[name].append(apart(output))

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def wrapped(
    model: nn.Module, blocks: Sequence[str], around: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Let another function be the forward of blocks for a while."""
    changed = []
    try:
        for name in blocks:
            block = model.get_submodule(name)
            changed.append((block, block.__dict__.get("forward")))
            block.__dict__["forward"] = around(name, block.forward)  # a module there would become its child
        yield
    finally:
        for block, own in changed:
            if own is None:
                del block.__dict__["forward"]
            else:
                block.__dict__["forward"] = own


def _numbers(values: Any) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.is_floating_point()]


def _mean(errors: list[Tensor]) -> Tensor:
    if not errors:
        raise RecipeError("blocks: none of the blocks that were to learn took part in the pass")
    return torch.stack([error.float() for error in errors]).mean()
