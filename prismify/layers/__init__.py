"""The paper's operators as `nn.Module`s, and the one function that builds a layer's replacement."""

from .deep_prism import Bias, DeepPrism
from .multihead import PrismMultihead
from .operator import Operator, OperatorType, build_operator, operator_for
from .prism import Prism
from .prism_attn import PrismAttn
from .prism_conv import PrismConv

__all__ = [
    "Bias",
    "DeepPrism",
    "Operator",
    "OperatorType",
    "Prism",
    "PrismAttn",
    "PrismConv",
    "PrismMultihead",
    "build_operator",
    "operator_for",
]
