"""Damaged folders: whatever was done to them, `load` says one clear line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import prismify
from prismify.checkpoint.manifest import read_report
from prismify.errors import PrismifyError, SourceError

NET = """
from torch import nn

def make(width=16):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3), nn.Conv2d(width, 3, 1))
"""


@pytest.fixture
def referred(tmp_path: Path) -> Path:
    """A converted folder that is rebuilt by a reference, so that its plan is replayed."""
    (tmp_path / "net.py").write_text(NET)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    converted = prismify.convert(scope["make"]().eval())
    prismify.save(converted, tmp_path / "referred", reference=f"{tmp_path / 'net.py'}:make")
    return tmp_path / "referred"


def refusal(folder: Path) -> str:
    """The one line that `load` says."""
    with pytest.raises(PrismifyError) as caught:
        prismify.load(folder, trust_code=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "prismify.json", "skeleton.pt"])
@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.9])
def test_a_truncated_file_is_named(saved: Path, name: str, keep: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert str(saved / name) in refusal(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "prismify.json", "skeleton.pt"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert name in refusal(saved)


def test_a_lost_or_damaged_config_is_named(tmp_path: Path) -> None:
    import diffusers

    model = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, sample_size=8).eval()
    prismify.save(prismify.convert(model), tmp_path / "out")
    content = (tmp_path / "out" / "config.json").read_text()
    for broken in (content[:50], "", "[]", content.replace("AutoencoderKL", "AutoencoderXX"), '{"a": 1}'):
        (tmp_path / "out" / "config.json").write_text(broken)
        assert "config.json" in refusal(tmp_path / "out") or "AutoencoderXX" in refusal(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text(content.replace("16", "32"))
    assert "the model has 32->32" in refusal(tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()
    assert "has lost its config.json" in refusal(tmp_path / "out")


def test_a_folder_of_another_version_is_told(saved: Path) -> None:
    manifest = json.loads((saved / "prismify.json").read_text())
    for version in (0, 2, "1", None):
        (saved / "prismify.json").write_text(json.dumps(manifest | {"format_version": version}))
        assert f"has format version {version!r}; this prismify reads 1" in refusal(saved)
    (saved / "prismify.json").write_text(json.dumps(manifest | {"plan": manifest["plan"] | {"version": 9}}))
    assert "plan version 9 is not 1" in refusal(saved)


@pytest.mark.parametrize("key", ["model", "plan", "source"])
@pytest.mark.parametrize("value", [None, 3, "x", [], [1]])
def test_a_field_of_the_wrong_kind_is_named(saved: Path, key: str, value: Any) -> None:
    manifest = json.loads((saved / "prismify.json").read_text())
    (saved / "prismify.json").write_text(json.dumps(manifest | {key: value}))
    assert repr(key) in refusal(saved)
    del manifest[key]
    (saved / "prismify.json").write_text(json.dumps(manifest))
    assert f"lacks {key!r}" in refusal(saved)


def test_unknown_fields_are_refused_in_the_plan_and_ignored_beside_it(saved: Path) -> None:
    manifest = json.loads((saved / "prismify.json").read_text())
    (saved / "prismify.json").write_text(json.dumps(manifest | {"remark": "mine"}))
    assert prismify.load(saved)
    manifest["plan"]["layers"][0]["colour"] = "red"
    (saved / "prismify.json").write_text(json.dumps(manifest))
    assert "unknown field 'colour'" in refusal(saved)


@pytest.mark.parametrize("kind", ["onnx", None, 3, ["diffusers"]])
def test_an_unknown_way_to_rebuild_is_told(saved: Path, kind: Any) -> None:
    manifest = json.loads((saved / "prismify.json").read_text())
    manifest["model"]["kind"] = kind
    (saved / "prismify.json").write_text(json.dumps(manifest))
    assert f"cannot rebuild a model of kind {kind!r}" in refusal(saved)


def mutations(value: Any) -> Iterator[Any]:
    """Copies of a JSON value, each with one thing inside deleted or replaced."""
    if not isinstance(value, (dict, list)):
        return
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, inner in items:
        for other in (None, -1, "x", {}, [None]):
            yield _with(value, key, other)
        if isinstance(value, dict):
            yield {k: v for k, v in value.items() if k != key}
        for changed in mutations(inner):
            yield _with(value, key, changed)


def _with(value: Any, key: Any, other: Any) -> Any:
    changed = copy.copy(value)
    changed[key] = other
    return changed


def test_no_change_of_a_manifest_ends_in_another_error(referred: Path) -> None:
    """Every field of a manifest, one at a time, replaced by nonsense: it loads, or it says why not."""
    manifest = json.loads((referred / "prismify.json").read_text())
    del manifest["source"], manifest["versions"]  # whatever is in there, nothing reads it
    manifest["source"] = {}
    manifest["plan"]["layers"] = manifest["plan"]["layers"][1:2]
    tried = 0
    for changed in mutations(manifest):
        (referred / "prismify.json").write_text(json.dumps(changed))
        tried += 1
        try:
            prismify.load(referred, trust_code=True)
        except PrismifyError as error:
            if "\n" in str(error):
                pytest.fail(f"{error!r} is more than a line")
    assert tried > 200


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_weights_that_do_not_fit_are_named(saved: Path, change: str) -> None:
    state = load_file(saved / "model.safetensors")
    if change == "shape":
        state["0.weight"] = torch.ones(2, 2)
    elif change == "missing":
        del state["0.weight"]
    else:
        state["9.weight"] = torch.ones(2, 2)
    save_file(state, saved / "model.safetensors")
    assert ("9.weight" if change == "extra" else "0.weight") in refusal(saved)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"not a folder that prismify wrote: it has no prismify\.json"):
        prismify.load(tmp_path)
    with pytest.raises(SourceError, match="not a folder that prismify wrote"):
        prismify.load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parameters": 1}', "{"])
def test_a_damaged_report_is_told(saved: Path, content: str) -> None:
    (saved / "report.json").write_text(content)
    with pytest.raises(SourceError, match=r"report\.json"):
        read_report(saved)


def test_buffers_from_outside_are_checked(saved: Path) -> None:
    save_file({"nowhere.table": torch.ones(2)}, saved / "buffers.safetensors")
    assert "the model has no place for nowhere.table" in refusal(saved)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, '{"version": 1e999999}' * 2])
def test_json_that_is_too_deep_is_one_line(tmp_path: Path, content: str) -> None:
    for name, read in (("prismify.json", prismify.load), ("plan.json", prismify.Plan.load)):
        (tmp_path / name).write_text(content)
        with pytest.raises(prismify.PrismifyError, match=name):
            read(tmp_path if name == "prismify.json" else tmp_path / name)


def test_json_that_is_too_large_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "plan.json").open("wb") as file:
        file.truncate(1 << 36)  # a sparse file: reading it whole would take 64 GiB
    with pytest.raises(prismify.PrismifyError, match="larger than 64 MiB"):
        prismify.Plan.load(tmp_path / "plan.json")
