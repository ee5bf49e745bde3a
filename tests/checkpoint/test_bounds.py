"""Files that declare more than they hold, or nest without end, are refused in one line and before memory is spent."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prismify.checkpoint.formats import read_weights
from prismify.checkpoint.manifest import read_json
from prismify.errors import OutputError, PlanError, SourceError
from prismify.plan import Plan
from prismify.training.engine import read_state
from prismify.validation import MOST_DEEP


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [MOST_DEEP, 900, 200_000])
def test_json_nests_so_deep_and_no_deeper(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(nested(depth - 1) if depth == MOST_DEEP else nested(depth))
    if depth == MOST_DEEP:
        assert read_json(path)
        return
    with pytest.raises(SourceError, match=r"a\.json is damaged: not JSON \(it is nested"):
        read_json(path)
    with pytest.raises(PlanError, match=r"a\.json: not JSON \(it is nested"):
        Plan.load(path)


def safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, dict[str, Any]] = {
    "longer than the file": {"header": {}, "length": 1 << 25},
    "longer than is read": {"header": {}, "length": 1 << 60},
    "overlapping": {"header": {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, "data": bytes(12)},
    "larger than its bytes": {"header": {"a": entry([1 << 40], 0, 8)}, "data": bytes(8)},
    "overflowing": {"header": {"a": entry([1 << 33, 1 << 33], 0, 8)}, "data": bytes(8)},
    "empty and huge": {"header": {"a": entry([0, (1 << 63) - 1, 2], 0, 0)}},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_header_that_lies_is_one_line(tmp_path: Path, name: str) -> None:
    path = safetensors(tmp_path / "w.safetensors", **HEADERS[name])
    with pytest.raises(SourceError, match=r"w\.safetensors is (truncated|damaged)"):
        read_weights(path)


def test_one_number_is_not_taken_for_many(tmp_path: Path) -> None:
    """A view of stride 0 takes no memory until something copies it."""
    many = torch.zeros(1).expand(1 << 40)
    torch.save({"w": many}, tmp_path / "state.pt")
    torch.save({"state_dict": {"w": many}}, tmp_path / "nested.pt")
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(1).expand(1 << 20, 1 << 20))
    torch.save(model, tmp_path / "module.pt")
    for name in ("state", "nested", "module"):
        with pytest.raises(SourceError, match=rf"{name}\.pt is [\d,]+ bytes and declares tensors of [\d,]+: it is"):
            read_weights(tmp_path / f"{name}.pt")
    torch.save({"ids": torch.arange(512).expand(4, -1)}, tmp_path / "small.pt")
    assert read_weights(tmp_path / "small.pt")


@pytest.mark.parametrize("state", [[1], {"step": 1}], ids=str)
def test_a_state_that_is_none_is_one_line(tmp_path: Path, state: Any) -> None:
    (tmp_path / "step-00000001").mkdir()
    torch.save(state, tmp_path / "step-00000001" / "state.pt")
    with pytest.raises(OutputError, match=r"state\.pt is damaged"):
        read_state(tmp_path, 1)
