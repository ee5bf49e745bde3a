"""From a trained model the smallest one that still works: which candidate takes the place of which block.

`ladder` lists what may take a block's place, `library` holds the candidates while they learn, `scoring` measures what
each costs the model's output, `choosing` finds the best choice under budgets, `outcome` is what lies in the folder
afterwards, and `drawing` and `telling` show it.
"""

from .choosing import Budget, choose
from .ladder import Entry, ladder_of
from .library import Library
from .outcome import Outcome, put_weights, read_outcome, write_plan
from .scoring import Scores, score

__all__ = [
    "Budget",
    "Entry",
    "Library",
    "Outcome",
    "Scores",
    "choose",
    "ladder_of",
    "put_weights",
    "read_outcome",
    "score",
    "write_plan",
]
