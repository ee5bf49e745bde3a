"""Files as other programs write them: pickles, safetensors, zips, exported programs. None is run to be read."""

from .pickles import classes_in, read_pickle
from .programs import PROGRAM_SUFFIX, export_module, read_program, write_program
from .tensor_files import Part, part_of, stored_tensors, write_parts
from .tensors import (
    changed_buffers,
    fit_weights,
    lay_out,
    loose_buffers,
    meta_names,
    put_buffers,
    saved_once,
    strides_of,
    unique_state,
)
from .weights import SUFFIXES, is_index, read_state, read_weights, sha256, shard_of, weight_files, write_safetensors
from .zips import check_unpacked

__all__ = [
    "PROGRAM_SUFFIX",
    "SUFFIXES",
    "Part",
    "changed_buffers",
    "check_unpacked",
    "classes_in",
    "export_module",
    "fit_weights",
    "is_index",
    "lay_out",
    "loose_buffers",
    "meta_names",
    "part_of",
    "put_buffers",
    "read_pickle",
    "read_program",
    "read_state",
    "read_weights",
    "saved_once",
    "sha256",
    "shard_of",
    "stored_tensors",
    "strides_of",
    "unique_state",
    "weight_files",
    "write_parts",
    "write_program",
    "write_safetensors",
]
