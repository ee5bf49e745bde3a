"""Other things that a layer can be made of, between 27 weights and all of them: each is named in plans by its class.

Every class has `from_layer(layer, **options)`; a plan holds the options as JSON.
"""

from .composed import Gained, Sum, last_weight
from .fits import fit
from .grouped import Grouped, Separable
from .low_rank import LowRank
from .moments import Moments, watched
from .narrow import Narrow
from .shapes import InPlace
from .tucker import Tucker

__all__ = [
    "Gained",
    "Grouped",
    "InPlace",
    "LowRank",
    "Moments",
    "Narrow",
    "Separable",
    "Sum",
    "Tucker",
    "fit",
    "last_weight",
    "watched",
]
