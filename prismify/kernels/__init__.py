"""The deep-prism operator: two functions, and the engines behind them.

This package is the only place that knows *how* the operator is computed. Layers call `deep_prism`
and `prism`; a faster engine is added here and nowhere else. Importing it imports no compiler: Numba
and Triton are loaded by the first call that they serve.
"""

from .engines import engines_report, explain, use_engine
from .functional import deep_prism, prism
from .spatial import deep_prism_nd, deep_prism_transposed_nd
from .transposed import deep_prism_transposed
from .types import PaddingMode, Topology

__all__ = [
    "PaddingMode",
    "Topology",
    "deep_prism",
    "deep_prism_nd",
    "deep_prism_transposed",
    "deep_prism_transposed_nd",
    "engines_report",
    "explain",
    "prism",
    "use_engine",
]
