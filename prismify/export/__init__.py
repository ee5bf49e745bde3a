"""Models for other runtimes: ONNX files, and torch's exported programs; nothing of prismify is needed to run them.

`entry` is one method of a model with tensors in and out; `onnx_file` and `program_file` write it; `runtime` runs an
ONNX file, to compare it with the model and with the dense original.
"""

from .entry import Entry
from .onnx_file import Written, write_onnx
from .program_file import write_program
from .runtime import largest_difference, times

__all__ = ["Entry", "Written", "largest_difference", "times", "write_onnx", "write_program"]
