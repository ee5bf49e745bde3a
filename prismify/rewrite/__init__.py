"""What is carried out: a plan on a module, a `GraphModule` or an `ExportedProgram`, and what is checked afterwards.

`fusion` rewrites once more, at run time: blocks of norm, activation and operator into one pass.
"""

from .copying import copied
from .fusion import FUSIBLE, fuse, unfuse
from .module import carry_out, carry_out_program, convert, convert_, converted_copy, replay

__all__ = [
    "FUSIBLE",
    "carry_out",
    "carry_out_program",
    "convert",
    "convert_",
    "converted_copy",
    "copied",
    "fuse",
    "replay",
    "unfuse",
]
