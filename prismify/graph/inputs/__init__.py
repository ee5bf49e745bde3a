"""What a model is run on: the tensors a person gives, what is guessed around them, and what to say where it fails."""

from .containers import map_tensors, named_tensors, tensors_in
from .example_inputs import CLASS_NAMES, CONTEXT_NAMES, TIME_NAMES, ExampleInputs, inputs_with
from .hints import Hints, noise

__all__ = [
    "CLASS_NAMES",
    "CONTEXT_NAMES",
    "TIME_NAMES",
    "ExampleInputs",
    "Hints",
    "inputs_with",
    "map_tensors",
    "named_tensors",
    "noise",
    "tensors_in",
]
