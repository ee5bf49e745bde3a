"""What is there: every layer of a captured model with its role, its part in an attention, geometry, cost and obstacles.

Facts come from the graph and from modules alone. No policy is known here, and nothing is decided.
"""

from .count import parameter_count, state_bytes
from .inventory import inventory
from .layer import Inventory, Layer
from .obstacles import is_layer, obstacle_of, widths_of
from .widths import is_norm, is_replaceable

__all__ = [
    "Inventory",
    "Layer",
    "inventory",
    "is_layer",
    "is_norm",
    "is_replaceable",
    "obstacle_of",
    "parameter_count",
    "state_bytes",
    "widths_of",
]
