"""Fresh models, dense or converted, ready to train: the paper's architectures and the usual ones, by their names."""

from .architectures import ARCHITECTURES, Architecture, architecture
from .making import make_folder

__all__ = ["ARCHITECTURES", "Architecture", "architecture", "make_folder"]
