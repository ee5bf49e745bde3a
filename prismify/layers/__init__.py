"""The paper's operators as `nn.Module`s, and the one function that builds a layer's replacement."""

from .deep_prism import Bias, DeepPrism, DeepPrism1d, DeepPrism3d
from .deep_prism_transposed import DeepPrismTranspose1d, DeepPrismTranspose2d, DeepPrismTranspose3d
from .multihead import PrismMultihead
from .operator import LAYERS, Operator, build_operator, operator_for
from .own import OperatorType, described_operators, own_operators, register_operator
from .prism import Prism
from .prism_attn import PrismAttn
from .prism_conv import PrismConv
from .spectrum import Gained, Grouped, LowRank, Separable, Sum, Tucker

__all__ = [
    "LAYERS",
    "Bias",
    "DeepPrism",
    "DeepPrism1d",
    "DeepPrism3d",
    "DeepPrismTranspose1d",
    "DeepPrismTranspose2d",
    "DeepPrismTranspose3d",
    "Gained",
    "Grouped",
    "LowRank",
    "Operator",
    "OperatorType",
    "Prism",
    "PrismAttn",
    "PrismConv",
    "PrismMultihead",
    "Separable",
    "Sum",
    "Tucker",
    "build_operator",
    "described_operators",
    "operator_for",
    "own_operators",
    "register_operator",
]
