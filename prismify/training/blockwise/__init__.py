"""Block by block: every block that holds replaced layers learns what the original's does, all of them in one pass.

`finding` says what a block is, `lessons` lets blocks learn from the teacher's inputs or from the student's own, and
`starts` gives replaced layers the weights that come nearest to the original's, in closed form, before the first step.
"""

from .finding import alike, blocks_of
from .lessons import Lessons, apart, taught_by, variances_of, wrapped
from .starts import fits, moments_of, start_from, start_narrowed

__all__ = [
    "Lessons",
    "alike",
    "apart",
    "blocks_of",
    "fits",
    "moments_of",
    "start_from",
    "start_narrowed",
    "taught_by",
    "variances_of",
    "wrapped",
]
