"""How a model becomes an FX graph, and what each of its layers is for."""

from .capture import Capture, capture, capture_all
from .dataflow import Attention, LayerUse, Role, find_attention, merge_roles, roles
from .entry_points import EntryPoint
from .inputs import ExampleInputs, inputs_with
from .isolation import unwrap

__all__ = [
    "Attention",
    "Capture",
    "EntryPoint",
    "ExampleInputs",
    "LayerUse",
    "Role",
    "capture",
    "capture_all",
    "find_attention",
    "inputs_with",
    "merge_roles",
    "roles",
    "unwrap",
]
