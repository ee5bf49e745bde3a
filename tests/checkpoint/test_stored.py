"""Folders that earlier versions wrote: one of each format version lies in `stored`, with what it computed then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prismify import Plan, PrismifyError, load
from prismify.checkpoint.manifest import FORMAT_VERSION
from prismify.layers import DeepPrism, Operator, Prism, PrismConv
from tests.tolerances import equivalent, exact

STORED = Path(__file__).parent / "stored"
VERSIONS = range(1, FORMAT_VERSION + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_of_every_format_version_loads_as_it_was(version: int) -> None:
    model = load(STORED / f"version-{version}")
    stored = load_file(STORED / f"version-{version}" / "model.safetensors")
    for name, value in model.state_dict().items():
        exact(value, stored[name])
    expected = load_file(STORED / f"version-{version}-expected.safetensors")
    with torch.no_grad():
        equivalent(model.double()(expected["input"]), expected["output"])
    kinds = [type(model[index]).__name__ for index in (2, 4, 6, 8)]
    assert kinds == [DeepPrism.__name__, Prism.__name__, PrismConv.__name__, "DeepPrismTranspose2d"]


def test_a_folder_that_names_an_operator_of_another_version_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(STORED / "version-1", tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "prismify.json").read_text())
    row = next(row for row in manifest["plan"]["layers"] if row["operator"])
    row["operator"]["type"] = "HyperPrism"
    (tmp_path / "other" / "prismify.json").write_text(json.dumps(manifest))
    with pytest.raises(PrismifyError, match="HyperPrism") as told:
        load(tmp_path / "other")
    assert "\n" not in str(told.value)


def test_an_operator_is_written_with_what_applies_to_it() -> None:
    for kind, own in (("DeepPrism", set()), ("PrismConv", {"form"}), ("Prism", {"interleave"}),
                      ("PrismMultihead", {"projections"})):  # fmt: skip
        plain = Operator(kind).to_dict()
        assert plain.keys() == {"type", "volumes", "channel_kernel_size", "topology", "bias"} | own
        assert Operator(**plain) == Operator(kind)


def test_a_plan_that_names_more_than_applies_is_read() -> None:
    """Plans were written so once."""
    plan = json.loads((STORED / "version-1" / "prismify.json").read_text())["plan"]
    rows = [row for row in plan["layers"] if row["operator"]]
    assert all({"form", "interleave", "projections"} <= row["operator"].keys() for row in rows)
    again = Plan.from_dict(plan).to_dict()
    assert [row["operator"]["type"] for row in again["layers"] if row["operator"]] == [
        row["operator"]["type"] for row in rows
    ]
