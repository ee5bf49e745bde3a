"""The pages that are followed: every block of theirs runs, in order, in an empty folder beside `examples`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "start.md", *sorted((DOCS / "howto").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")
SECONDS = 600


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and why it is not run, where it is not."""

    kind: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    return [Block(kind, text, reason or None) for reason, kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def run(block: Block, folder: Path) -> None:
    """Write the file that a block begins with the name of, or run it as a person would."""
    if (named := NAME.match(block.text)) is not None:
        (folder / named[1]).write_text(block.text, encoding="utf-8")
        return
    words = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.kind]
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [*words, block.text], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in blocks(page):
        if block.reason is None:
            run(block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_mostly_run_and_says_in_what_its_blocks_are_written(page: Path) -> None:
    found = blocks(page)
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(found)
    assert {block.kind for block in found} <= {"sh", "python", "yaml"}
    assert text.count("<!--") == sum(block.reason is not None for block in found)  # no mark that marks nothing
    assert sum(block.reason is None for block in found) > sum(block.reason is not None for block in found)


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    run(Block("sh", "test -d .\n", None), tmp_path)
    run(Block("python", "# made.py\nsays = 1\n", None), tmp_path)
    run(Block("python", "import made\nassert made.says == 1\n", None), tmp_path)
    for wrong in (Block("sh", "false\ntrue\n", None), Block("python", "import made\nassert made.says == 2\n", None)):
        with pytest.raises(AssertionError):
            run(wrong, tmp_path)
