"""Weights files of every form, and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prismify.checkpoint.formats import read_state, read_weights, sha256, weight_files, write_safetensors
from prismify.errors import SourceError

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2, dtype=torch.float16)}


def assert_state(state: Any) -> None:
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".th"])
def test_a_state_dict_is_read_from_every_suffix(tmp_path: Path, suffix: str) -> None:
    torch.save(STATE, tmp_path / f"w{suffix}")
    assert_state(read_weights(tmp_path / f"w{suffix}"))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE},
        {"model": STATE, "optimizer": {"state": {}}, "epoch": torch.tensor(3)},
        {"params_ema": STATE, "params": {"weight": torch.zeros(1)}},
        {"model_state_dict": STATE, "loss": 0.5},
        {"ema": STATE},
        STATE | {"note": "not a tensor"},
    ],
    ids=lambda content: next(iter(content)),
)
def test_a_state_dict_is_found_among_other_things(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert_state(read_weights(tmp_path / "w.pt"))


def test_a_module_is_found_among_other_things(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": nn.Linear(2, 3)}, tmp_path / "w.pt")
    assert isinstance(read_weights(tmp_path / "w.pt"), nn.Linear)
    with pytest.raises(SourceError, match="holds a whole Linear, where a state dict is wanted"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, neither a state dict nor a module"),
        (torch.ones(2), "holds a Tensor, neither"),
        ({"epoch": 1, "lr": 2}, "holds no state dict; its keys are epoch, lr"),
        ({}, "its keys are none"),
    ],
)
def test_what_is_no_state_dict_is_said_to_be_none(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(SourceError, match=message):
        read_weights(tmp_path / "w.pt")


def write_shards(folder: Path, suffix: str, index: str) -> Path:
    for name, value in STATE.items():
        file = folder / f"{name}{suffix}"
        save_file({name: value}, file) if suffix == ".safetensors" else torch.save({name: value}, file)
    (folder / index).write_text(json.dumps({"weight_map": {name: f"{name}{suffix}" for name in STATE}}))
    return folder / index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("index", ["w.index.json", "w.index.fp16.json"])
def test_shards_are_joined(tmp_path: Path, suffix: str, index: str) -> None:
    path = write_shards(tmp_path, suffix, index)
    assert_state(read_weights(path))
    assert [f.name for f in weight_files(path)] == [index, f"bias{suffix}", f"weight{suffix}"]


@pytest.mark.parametrize("name", ["../evil.bin", "/etc/evil.bin", "a/b.bin", "..", "", 3, None, "evil.py", "x\0.bin"])
def test_an_index_reads_weights_of_its_own_folder_only(tmp_path: Path, name: Any) -> None:
    (tmp_path / "in").mkdir()
    torch.save(STATE, tmp_path / "evil.bin")
    index = tmp_path / "in" / "w.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(SourceError):
        read_weights(index)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "\xff\xfe"])
def test_a_broken_index_is_said_to_be_broken(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.index.json").write_text(content, encoding="latin-1")
    with pytest.raises(SourceError, match=r"w\.index\.json"):
        read_weights(tmp_path / "w.index.json")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path, ".bin", "w.index.json")
    (tmp_path / "bias.bin").unlink()
    with pytest.raises(SourceError, match=r"bias\.bin: no such file"):
        read_weights(path)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_safetensors_is_said_to_be_truncated(tmp_path: Path, keep: int) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:keep])
    with pytest.raises(SourceError, match="truncated or not a safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_a_safetensors_that_is_none(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.safetensors")
    with pytest.raises(SourceError, match="not a safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_other_suffixes_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "w.gguf").touch()
    with pytest.raises(SourceError, match=r"weights end in \.safetensors"):
        read_weights(tmp_path / "w.gguf")
    with pytest.raises(SourceError, match="no such file"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_shapes_alone_lie_on_meta(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    save_file(STATE, file) if suffix == ".safetensors" else torch.save(STATE, file)
    state = read_state(file, shapes=True)
    assert all(tensor.is_meta for tensor in state.values())
    assert {n: (t.shape, t.dtype) for n, t in state.items()} == {n: (t.shape, t.dtype) for n, t in STATE.items()}


def test_tensors_are_aligned_and_apart_from_the_file(tmp_path: Path) -> None:
    """Kernels choose by alignment, so bit-identical results need it; and the file may change under a map."""
    save_file({f"{i}": torch.full((i + 1,), float(i)) for i in range(20)}, tmp_path / "w.safetensors")
    state = read_state(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert {t.data_ptr() % 64 for t in state.values()} == {0}
    assert all(float(t.sum()) == int(name) * (int(name) + 1) for name, t in state.items())


def test_what_safetensors_cannot_hold_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be written as safetensors"):
        write_safetensors({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "w.safetensors")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    assert sha256(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
