"""The paper's tables, counted and measured: what agrees, what is marked, and what the command writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prismify.paper import Sizes, Table, ldm, sinddm, table_2, table_3
from prismify.paper.columns import COLUMNS
from prismify.paper.counts import PRINTED
from prismify.paper.table import agrees


def column(table: Table, name: str) -> list[object]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_table_3_agrees_to_the_last_digit() -> None:
    table = table_3()
    assert column(table, "C") == list(PRINTED)
    assert column(table, "dense") == [6_358_975, 25_366_335, 101_326_399, 405_027_903]
    assert column(table, "converted") == [29_551, 57_839, 114_415, 227_567]
    assert column(table, "with biases of projections") == [29_559, 57_847, 114_423, 227_575]
    assert column(table, "agrees") == [True] * 4


@pytest.mark.parametrize(
    ("number", "printed", "wanted"),
    [
        (25_366_335, "25.3M", True),  # it is cut, not rounded
        (25_400_000, "25.3M", True),
        (25_410_000, "25.3M", False),
        (113_999, "114K", True),
        (112_999, "114K", False),
        (93, "93", True),
        (95.5, "93", False),
    ],
)
def test_a_printed_number_has_one_unit_of_its_last_digit(number: float, printed: str, wanted: bool) -> None:
    assert agrees(number, printed) is wanted


def test_the_ratios_of_both_denoisers() -> None:
    assert column(sinddm(), "ratio") == [3.7, 16.0, 16.5, 26.8, 95.5]
    table = ldm()
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert rows["`volumes`", "without time layers"] == (38_464_771, 45_579, 843.9)
    assert rows["`volumes`", "convolutions and attention alone"][2] > 300
    assert rows["`paper`", "all parameters"][2] == 2.0


def test_table_2_at_sizes_that_take_no_time() -> None:
    told: list[str] = []
    sizes = Sizes(
        map_channels=(16, 32), token_channels=(16, 32), map_sides=(8, 12), token_sides=(8, 12), at_map_side=8,
        at_token_side=8, at_channels=16, batch=1, seconds=0.001,
    )  # fmt: skip
    table = table_2(sizes, told.append)
    assert told == [c.name for c in COLUMNS if c.make is not None]
    rows = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(rows) == 8 * 5
    for name, exponent in (("Conv", 2), ("Group", 2), ("Prism", 0), ("FlashAttn", 2), ("PrismAttn", 0)):
        assert rows[name, "parameters"]["C measured"] == rows[name, "parameters"]["C derived"] == exponent
        assert rows[name, "parameters"]["as derived"] is True
    assert rows["Conv", "training time"]["N derived"] == 1
    written_out = rows["Attention", "space"]
    assert 1.5 < written_out["N measured"] <= 2
    assert rows["SparseAttn", "space"]["as derived"] is None
    for name in {c.name for c in COLUMNS} - {"SparseAttn"}:
        assert rows[name, "multiply-adds"]["as derived"] is True
        assert rows[name, "multiply-adds"]["paper"] is None
    assert rows["MultiHeadAttn", "multiply-adds"]["derived"] == "CN²+C²N"
    marked = {key for key, row in rows.items() if (row["paper"] or "").endswith("(!)")}
    assert {
        ("PrismAttn", "training time"),
        ("MultiHeadAttn", "training time"),
        ("MultiHeadAttn", "inference time"),
    } < marked
    assert all(math.isfinite(v) for row in rows.values() for v in row.values() if isinstance(v, float))


def test_the_command_writes_and_prints(tmp_path: Path, app: Callable[..., object]) -> None:
    ran = CliRunner().invoke(app, ["reproduce", "table3", "-o", str(tmp_path / "deep" / "out")])  # type: ignore[arg-type]
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "deep" / "out" / "table3.md").read_text()
    assert ran.stdout == text
    assert "| 256 | 25,366,335 | 25.3M | 57,839 | 57,847 | 57.8K | 439 | 438 | yes |" in text
    data = json.loads((tmp_path / "deep" / "out" / "table3.json").read_text())
    assert data["rows"][0]["dense"] == 6_358_975
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(app, ["reproduce", "ldm", "-o", str(tmp_path / "file" / "out")])  # type: ignore[arg-type]
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith(
        f"prismify: {tmp_path / 'file' / 'out' / 'ldm.json'} cannot be written"
    )
    printed = CliRunner().invoke(app, ["reproduce", "sinddm", "--json"])  # type: ignore[arg-type]
    assert json.loads(printed.stdout)["rows"][-1]["ratio"] == 95.5


@pytest.fixture
def app() -> object:
    from prismify.cli.main import app

    return app
