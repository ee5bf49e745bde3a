"""A call as training makes it: which operators run, and which parameters get a gradient from what it returns."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn

from .inputs import ExampleInputs, tensors_in
from .isolation import cloned_tensors, fake_weights, undisturbed
from .recorder import Recorder, module_hooks


def with_gradients(
    model: nn.Module, method: str, inputs: ExampleInputs, *, fake: bool, training: bool
) -> tuple[fx.Graph | None, frozenset[str] | None]:
    """Record a call that autograd follows, on fake tensors or on copies of the model's own.

    Returns:
        the graph, of operators that autograd has taken apart, and the names of the parameters that its results'
        gradients reach; None for what could not be had: the model does not run so, or hides a part from autograd.
    """
    try:
        with ExitStack() as stack:
            held = stack.enter_context(undisturbed(model, training=training))
            if fake:
                mode, make = stack.enter_context(fake_weights(model))
                given = inputs.map(make)
                stack.enter_context(mode)
            else:
                stack.enter_context(cloned_tensors(model))
                given = inputs.map(lambda t: t.clone())
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_()
            names: dict[int, list[str]] = {}
            for name, parameter in model.named_parameters(remove_duplicate=False):
                names.setdefault(id(parameter), []).append(name)
            recorder = Recorder(model, given.tensors(), held)
            with module_hooks(recorder), torch.enable_grad(), recorder:
                output = getattr(model, method)(*given.args, **given.kwargs)
            reached = _leaves(tensors_in(output))
            graph = recorder.finish(output)
    except Exception:
        return None, None
    if reached is None:
        return graph, None
    return graph, frozenset(name for leaf in reached for name in names.get(leaf, ()))


def _leaves(tensors: Iterable[Tensor]) -> set[int] | None:
    """The ids of the tensors that gradients arrive at; None where a checkpoint hides what it will run again."""
    waiting: list[Any] = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen, found = set(waiting), set()
    while waiting:
        function = waiting.pop()
        if type(function).__name__ == "CheckpointFunctionBackward":
            return None
        if hasattr(function, "variable"):
            found.add(id(function.variable))
        for following, _ in function.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
