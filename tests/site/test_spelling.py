"""Every command that a page shows is there, with the options that it is shown with; nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prismify.cli.main import app

from website.commands import commands

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = dict(commands(typer.main.get_command(app)))


def shown(text: str) -> Iterator[str]:
    """Lines of code that begin with `prismify`, after a prompt or not, with those that they go on in."""
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        found = re.match(r"(?:    |\$ )?prismify ([a-z].*)", line)
        if found is not None and (fenced or line.startswith("    ")):
            yield found[1]


def wrong(line: str) -> str | None:
    """What is not there of a command line; None where all is."""
    words = re.sub(r"'[^']*'|#.*|[\[\]]", " ", line).split()
    name = next((key for key in COMMANDS if tuple(words[: len(key)]) == key), None)
    if name is None:
        return f"no command {words[0]}"
    known = {option for one in COMMANDS[name].params for option in one.opts} | {"--help", "-h"}
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return next((f"{' '.join(name)} has no {option}" for option in options if option not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_are_there(page: Path) -> None:
    found: list[Any] = [wrong(line) for line in shown(page.read_text(encoding="utf-8"))]
    assert [one for one in found if one] == []


def test_slips_are_seen() -> None:
    assert wrong("scan vae --policy volumes  # and --more") is None
    assert wrong("scan vae --policies volumes") == "scan has no --policies"
    assert wrong("recipes ls") is None
    assert wrong("skan vae") == "no command skan"
    text = "prismify is\n    prismify train a \\\n  --set b\n```\n$ prismify scan c\nprismify new\n```\nprismify does\n"
    assert [" ".join(line.split()) for line in shown(text)] == ["train a --set b", "scan c", "new"]


def test_pages_have_commands_to_look_at() -> None:
    assert sum(len(list(shown(page.read_text(encoding="utf-8")))) for page in PAGES) > 100
