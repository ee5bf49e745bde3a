"""The page about operators: its Python runs, and its table names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prismify.layers import described_operators

PAGE = (Path(__file__).parents[1] / "docs" / "operators.md").read_text(encoding="utf-8")


def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block, "operators.md", "exec"), {"__name__": "page"})
    share = int(re.match(r"(\d+)% of the output's variance", capsys.readouterr().out)[1])
    assert 5 < share < 80


def test_its_table_names_every_operator() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert named == {"DeepPrism", *described_operators()}
