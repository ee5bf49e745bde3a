"""The deep-prism operator: one function, and the formulations behind it.

This package is the only place that knows *how* the operator is computed. Layers call `deep_prism`
and `prism`; a faster engine is added here and nowhere else.
"""

from .reference import deep_prism, prism
from .types import PaddingMode, Topology

__all__ = ["PaddingMode", "Topology", "deep_prism", "prism"]
