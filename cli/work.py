"""What `scan` and `convert` do alike: open, build, capture, plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..checkpoint import Source
from ..errors import PrismifyError
from ..graph import Capture, capture_all, unwrap
from .options import example_inputs

if TYPE_CHECKING:
    from torch import nn


def build_for_scan(source: Source) -> nn.Module:
    """The model without memory for weights where its factory allows that, else with them."""
    try:
        return source.build(empty=True)
    except PrismifyError:
        return source.build()


def captured(
    model: nn.Module,
    inputs: list[str] | None,
    methods: list[str] | None,
    rebuild: Callable[[], nn.Module] | None = None,
) -> tuple[nn.Module, Capture]:
    """The model and its capture; a model on meta that only runs on real values is built again with weights."""

    def attempt(candidate: nn.Module) -> Capture:
        given = example_inputs(unwrap(candidate), inputs, methods[0] if methods else "forward")
        if given is None:
            return capture_all(candidate, methods=methods)
        return capture_all(candidate, given.args, given.kwargs, methods)

    capture = attempt(model)
    if not capture.graphs and rebuild is not None and any(p.is_meta for p in model.parameters()):
        model = rebuild()
        capture = attempt(model)
    return model, capture
