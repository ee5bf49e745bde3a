"""The report on the terminal: readable in 80 columns, with every reason in 140, names whole in both."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prismify.cli.table import broken_at_dots, layer_table
from rich.cells import cell_len

Run = Callable[..., Any]
CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


def lines_of(report: dict[str, Any], width: int, *, all_layers: bool = False) -> list[str]:
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    console.print(layer_table(report, width, all_layers))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.fixture(scope="module")
def unet(run: Run) -> dict[str, Any]:
    """The report of Stable Diffusion's UNet, which has everything a table must show."""
    report: dict[str, Any] = run("scan", CONFIGS / "sd15-unet", "--policy", "volumes", "--json").json
    return report


def names_in(lines: list[str]) -> list[str]:
    """The layers' names, put together where they were broken; blocks are left out."""
    names: list[str] = []
    block = ""
    for line in lines[1:]:
        first = line.split("  ")[0] if not line.startswith(" ") else ""
        if re.match(r" {4}\.", line):
            names[-1] += line.split()[0]
        elif line.startswith("  ") and line.split()[0:1] and not line.startswith("     "):
            names.append(f"{block}.{line.split()[0]}")
        elif first and re.search(r"(conv|linear|attention)", line[len(first) :]):
            names.append(first.split()[0])
        elif first:
            block = first.split()[0]
    return names


@pytest.mark.parametrize("width", [80, 100, 131, 132, 140, 200])
def test_no_line_is_wider_than_the_terminal_and_names_are_whole(unet: dict[str, Any], width: int) -> None:
    lines = lines_of(unet, width)
    assert max(map(cell_len, lines)) <= width
    patterns = names_in(lines)
    for layer in unet["layers"]:
        assert any(
            re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+"), layer["name"]) for pattern in patterns
        ), layer["name"]


def test_folds_say_how_many_and_all_folds_nothing(unet: dict[str, Any]) -> None:
    folded = lines_of(unet, 140)
    counts = [int(n) for line in folded for n in re.findall(r"  ×(\d+)  ", line)]
    single = len(names_in(folded)) - len(counts)
    assert sum(counts) + single == len(unet["layers"])
    whole = names_in(lines_of(unet, 200, all_layers=True))
    assert whole == [layer["name"] for layer in unet["layers"]]


def test_the_blocks_totals_add_up(unet: dict[str, Any]) -> None:
    lines = lines_of(unet, 140)
    assert next(line for line in lines if line.startswith("mid_block")).split()[1:] == ["97M", "→", "24.9M"]
    assert not any(line.startswith("model") for line in lines)  # layers in no block have no heading


def test_names_break_before_dots() -> None:
    assert broken_at_dots("a.b.c", 9) == "a.b.c"
    assert broken_at_dots("down_blocks.0.attentions.1", 17) == "down_blocks.0\n    .attentions.1"
    assert broken_at_dots("averylongname_without_dots", 10) == "averylongname_without_dots"
    for width in range(1, 40):
        name = "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"
        assert "".join(line.strip() for line in broken_at_dots(name, width).splitlines()) == name


@pytest.mark.parametrize("columns", ["80", "140"])
def test_a_report_says_what_it_counts_and_what_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = run("convert", "timm:test_resnet", "-o", tmp_path / "out").out
    assert max(map(cell_len, text.splitlines()[:-3])) <= int(columns)
    flat = " ".join(text.split())
    for words in (
        "parameters",
        "multiply-adds",
        "checkpoint",
        "ratio",
        "Not in the parameter counts: buffers (",
        "Replaced: 7 layers",
        "Norms and other parameters",
        "of the result",
        "Read forward by recorder on fake tensors",
        "every weight is fresh",
        "must be retrained",
        "Load it with prismify.load(",
    ):
        assert words in flat, words
    assert run("report", tmp_path / "out").out.strip() == text[: text.index("\nWritten to")].strip()


def test_the_call_that_loads_a_folder_is_complete(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net.parent)
    assert "prismify.load('out', trust_code=True)" in run("convert", "net.py:make", "-o", "out").out
    assert "prismify.load('lib')" in run("convert", "timm:test_resnet", "-o", "lib").out


def test_markup_in_names_is_text(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer may be called anything but a dot."""
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_text(
        "from torch import nn\ndef make():\n    m = nn.Sequential(nn.Conv2d(3, 16, 3))\n"
        "    m.add_module('[bold]x[/]', nn.Conv2d(16, 16, 3))\n    m.add_module('[/red]', nn.Conv2d(16, 3, 3))\n"
        "    return m\n"
    )
    out = run("convert", "odd.py:make", "-o", "[out]").out
    assert "[bold]x[/]" in out
    assert "[/red]" in out
    assert "Written to [out]" in out
