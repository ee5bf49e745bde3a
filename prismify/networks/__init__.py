"""Networks that come with prismify because no library has them: `prismify:Name` names one. They need torch alone."""

from torch import nn

from .sinddm import SinDDM

#: The name in a model reference -> the class.
NETWORKS: dict[str, type[nn.Module]] = {"SinDDM": SinDDM}

__all__ = ["NETWORKS", "SinDDM"]
