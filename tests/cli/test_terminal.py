"""Output anywhere: a terminal that is not UTF-8, names that are no text, numbers that are none."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prismify.cli.terminal import show_anything

from prismify.training.engine import Event
from prismify.training.engine.journal import Journal, read_records

ROOT = Path(__file__).parents[2]


def shown(text: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    show_anything()
    print(text, end="", flush=True)
    monkeypatch.undo()
    return raw.getvalue()


def test_what_an_encoding_lacks_comes_out_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("3×3 → 1 ± 2", "ascii", monkeypatch) == b"3x3 -> 1 +- 2"
    assert shown("3×3 → é", "cp1252", monkeypatch) == b"3\xd73 -> \xe9"
    assert shown("größe ☃", "latin-1", monkeypatch) == b"gr\xf6\xdfe \\u2603"
    assert shown("→ " + os.fsdecode(b"caf\xe9"), "utf-8", monkeypatch) == "→ caf".encode() + b"\xe9"


@pytest.mark.parametrize("encoding", ["ascii"])
def test_a_conversion_ends_well_on_any_terminal(tmp_path: Path, net: Path, encoding: str) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    source = f"{net}:make"
    paths = f"import os; out = os.fsdecode(b'{tmp_path}/caf\\xe9/out')\n"
    code = f"from prismify.cli.main import app\napp(['convert', {source!r}, '-o', out])"
    start = f"import prismify; prismify.__path__.append({str(ROOT)!r})\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    ran = subprocess.run([sys.executable, "-c", start + paths + code], env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert b"Written to" in ran.stdout
    assert (folder / "out" / "report.md").is_file()


def test_the_journal_is_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, tensorboard=False)
    journal.write("validation", 1, {"psnr": float("nan"), "lpips": float("inf"), "teacher_psnr": 3.0})
    journal.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1, "kind": "validation", "psnr": None, "lpips": None, "teacher_psnr": 3.0,
    }  # fmt: skip
    assert read_records(tmp_path)[0]["psnr"] is None


def bar_of(width: int, seconds: float, step: int, **began: float) -> str:
    """The bar's last line after a step, on a terminal of so many columns."""
    terms = {"reconstruction": 0.123456, "perceptual": 0.5, "kl": 12.0, "total": 3.21, "gradient_norm": 1.0}
    events = [Event("began", 0, values=began), Event("step", step, values={**terms, "seconds": seconds})]
    return lines_of(width, events)[-1]


def lines_of(width: int, events: list[Event]) -> list[str]:
    """What a terminal of so many columns shows of events."""
    from prismify.cli.train import live_view
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rich.console.Console", lambda **how: console)
        with live_view() as watch:
            for event in events:
                watch(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert all(len(line) <= width for line in lines)
    return lines


def test_what_is_counted_fills_the_bar() -> None:
    began = Event("began", 0, values={"steps": 50})
    half = lines_of(80, [began, Event("counted", 50, "scored", {"done": 150, "of": 300})])[-1]
    assert half.startswith("150/300 ")
    assert "scored" in half
    assert "━" * 8 + "╺" in half


def test_a_terminal_breaks_sentences_between_words() -> None:
    lines = lines_of(50, [Event("said", 0, " ".join(["somewhat"] * 30))])
    told = [line for line in lines if "some" in line]
    assert " ".join(told).split() == ["somewhat"] * 30
    assert len(told) > 1


def test_steps_and_time_fit_in_eighty_columns() -> None:
    line = bar_of(80, 600.0, 120_000, steps=150_000)
    assert line.startswith("120000/150000 ")
    assert "0:02:" in line
    assert "total 3.21" in line
    assert "…" in line  # the rest is cut
    assert "0:02:" in bar_of(40, 600.0, 120_000, steps=150_000)


def test_the_bar_ends_when_the_clock_does() -> None:
    late = bar_of(80, 90.0, 100, steps=1_000_000, limit=120.0)
    assert re.search(r"0:00:(29|30)", late)
    assert late.count("━") >= 14  # three quarters of the time are over, and next to none of the steps
    assert re.search(r"0:00:(09|10)", bar_of(80, 90.0, 90, steps=100, limit=1e6))
