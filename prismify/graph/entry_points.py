"""One captured method of a model, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx

from .inputs import ExampleInputs

Technique = Literal["recorder on fake tensors", "recorder on real tensors", "torch.export", "list of modules"]


@dataclass(frozen=True)
class EntryPoint:
    """One method of a model, captured.

    Args:
        method: "forward", "encode", "decode" or a name the caller gave.
        technique: the rung of the ladder that was taken.
        graph: the FX graph; None for "list of modules".
        inputs: the example inputs the graph was made with, if any ran.
        output_shapes: of every tensor the method returns.
        failed: why the techniques above failed, one line each.
        advice: what a person can do about an entry point that could not be captured.
        training: the graph of a call in training mode, where it runs that way too.
        trained: names of the parameters that get a gradient from what the method returns, in training or in
            evaluation; None where that could not be seen.
    """

    method: str
    technique: Technique
    graph: fx.Graph | None
    inputs: ExampleInputs | None
    output_shapes: tuple[tuple[int, ...], ...] = ()
    failed: tuple[str, ...] = ()
    advice: str = ""
    training: fx.Graph | None = None
    trained: frozenset[str] | None = None
