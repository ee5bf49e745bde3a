"""The deep-prism operator: three functions, and the engines behind them.

This package is the only place that knows *how* the operator is computed. Layers call `deep_prism`
and `prism`; a faster engine is added here and nowhere else. Importing it imports no compiler: Numba
and Triton are loaded by the first call that they serve.
"""

from .engines import engines_report, explain, use_engine
from .functional import deep_prism, prism
from .fused.functional import norm_act_deep_prism
from .spatial import deep_prism_nd, deep_prism_transposed_nd
from .transposed import deep_prism_transposed
from .types import PADDING_MODES, Activation, PaddingMode, Topology

__all__ = [
    "PADDING_MODES",
    "Activation",
    "PaddingMode",
    "Topology",
    "deep_prism",
    "deep_prism_nd",
    "deep_prism_transposed",
    "deep_prism_transposed_nd",
    "engines_report",
    "explain",
    "norm_act_deep_prism",
    "prism",
    "use_engine",
]
