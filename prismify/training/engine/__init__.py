"""What every run is: opened, begun, stepped, recorded, stopped, ended, and taken up again where it stopped.

Recipes say what a step computes; everything around it is here.
"""

from .begin import freeze_unused, introduce, see_that_it_fits
from .ending import end_run
from .events import Event, Watch
from .launch import is_launched, launch
from .opening import open_run
from .processes import Part
from .run import Run
from .state import read_state, states

__all__ = [
    "Event",
    "Part",
    "Run",
    "Watch",
    "end_run",
    "freeze_unused",
    "introduce",
    "is_launched",
    "launch",
    "open_run",
    "read_state",
    "see_that_it_fits",
    "states",
]
