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


def test_a_page_of_a_notebook_has_what_comes_out_but_no_warnings(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    new = nbformat.v4
    outputs = [
        new.new_output("stream", name="stdout", text="\x1b[1mone\x1b[0m\n"),
        new.new_output("stream", name="stderr", text="Warning: /a/folder\n"),
        new.new_output("display_data", data={"image/png": "iVBORw0KGgo="}),
        new.new_output("execute_result", data={"text/plain": "2"}),
    ]
    cells = [new.new_markdown_cell("# Title"), new.new_code_cell("say()", outputs=outputs)]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "book.ipynb")
    pages = notebooks.pages(tmp_path / "book.ipynb", run=False)
    assert pages["notebooks/book-0.png"] == b"\x89PNG\r\n\x1a\n"
    said = "```python\nsay()\n```\n\n![What the cell above shows](book-0.png)\n\n```{ .text .output }\none\n2\n```\n\n"
    assert pages["notebooks/book.md"] == f"# Title\n\n{said}"
