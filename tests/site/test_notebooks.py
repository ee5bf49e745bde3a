"""The notebooks run from top to bottom, and are stored as they are before they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from website import notebooks

ROOT = Path(__file__).parents[2]
BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_is_stored_without_what_comes_out(book: Path) -> None:
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.slow
# Jupyter's own: a kernel's sockets are closed when they are collected, and the loop of events is asked for as of old.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_runs_and_shows_something(book: Path) -> None:
    pages = notebooks.pages(book, run=True)
    page = pages[f"notebooks/{book.stem}.md"]
    assert isinstance(page, str)
    assert "{ .text .output }" in page
    pictures = {name: content for name, content in pages.items() if name.endswith(".png")}
    assert pictures
    assert all(isinstance(content, bytes) and content.startswith(b"\x89PNG") for content in pictures.values())
    assert all(name.removeprefix("notebooks/") in page for name in pictures)
