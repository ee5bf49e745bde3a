"""safetensors files, read and written tensor by tensor: in memory is never more than what is asked for."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from ...errors import SourceError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHUNK = 1 << 24
#: Bytes in the largest header that is read: one of 100,000 tensors takes a third of it.
_MOST_HEADER = 32 << 20


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file: its bytes are those from `begin` to `end`."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def read(self) -> Tensor:
        """The tensor, in memory of its own: kernels choose by alignment, which a mapped file does not have."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        if tensor.numel():
            with self.path.open("rb") as file:
                file.seek(self.begin)
                into: Any = tensor.reshape(-1).view(torch.uint8).numpy()
                if file.readinto(into) != self.end - self.begin:
                    raise SourceError(f"{self.path} is truncated")
        return tensor

    def copy_to(self, output: BinaryIO) -> None:
        """Write the tensor's bytes to another file."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.end - self.begin
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise SourceError(f"{self.path} is truncated")
                output.write(chunk)
                left -= len(chunk)


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a safetensors file by name; no values are read.

    Raises:
        SourceError: it is damaged, or holds a kind of number that torch lacks.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MOST_HEADER:
                raise ValueError(f"a header of {length:,} bytes, where {_MOST_HEADER:,} are read")
            with safe_open(path, framework="pt"):
                pass  # sees that the header is right and the tensors lie one behind the other
            header = json.loads(file.read(length))
    except Exception as error:
        raise SourceError(f"{path} is truncated or not a safetensors file ({' '.join(str(error).split())})") from error
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise SourceError(f"{path}: {name} holds numbers of kind {entry['dtype']}, which prismify does not read")
        if prod(max(1, side) for side in entry["shape"]) >= 1 << 60:  # of a tensor without numbers, if of any
            raise SourceError(f"{path} is damaged: {name} has the shape {entry['shape']}")
        begin, end = (length + 8 + offset for offset in entry["data_offsets"])
        found[name] = Stored(path, dtype, tuple(entry["shape"]), begin, end)
    return found


@dataclass(frozen=True)
class Part:
    """A tensor on its way into a file: what it is, and what writes its bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    write: Callable[[BinaryIO], None]


def part_of(name: str, tensor: Tensor) -> Part:
    """A tensor in memory as a part."""

    def write(output: BinaryIO) -> None:
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        for begin in range(0, len(flat), _CHUNK):
            output.write(flat[begin : begin + _CHUNK].tobytes())

    return Part(name, tensor.dtype, tuple(tensor.shape), write)


def write_parts(parts: Iterable[Part], path: Path) -> None:
    """Write a safetensors file whose tensors come one after the other.

    Raises:
        OSError: the disk does not take it.
        SourceError: safetensors has no form for one of the tensors.
    """
    parts, offset = list(parts), 0
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    for part in parts:
        if part.dtype not in _NAMES:
            raise SourceError(f"the weights cannot be written as safetensors: {part.name} is {part.dtype}")
        size = torch.Size(part.shape).numel() * part.dtype.itemsize
        header[part.name] = {
            "dtype": _NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as output:
        output.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            part.write(output)
        if output.tell() != 8 + len(text) + offset:
            raise SourceError(f"{path} came out in another size than its tensors'")
