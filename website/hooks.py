"""What MkDocs calls while it builds: pages that are made anew each time, and links that lead out of `docs`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WIDE = ("zoo.md", "scan.md")
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
sys.path.insert(0, str(ROOT))  # MkDocs may be started in any way; the siblings are found all the same

from website import commands, interface, notebooks, outside  # noqa: E402


def on_files(files: Any, config: Any) -> Any:
    """Put the pages in that no file in `docs` holds."""
    from mkdocs.structure.files import File

    run = os.environ.get("RUN_NOTEBOOKS", "") not in ("", "0")
    made: dict[str, str | bytes] = {"command-line.md": commands.page()}
    made |= {f"api/{name}.md": text for name, text in interface.pages().items()}
    made |= outside.pages(ROOT)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.remove(files.get_file_from_path(f"notebooks/{path.name}"))
        made |= notebooks.pages(path, run=run)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links into the repository lead to the copies of those files in the site, and wide tables have the margin."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    return outside.relinked(markdown, page.file.src_uri)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Hold that a page asks no network for anything that it is made of."""
    if (found := LOADED.search(output)) is not None:
        from mkdocs.exceptions import PluginError

        raise PluginError(f"{page.file.src_uri} loads {found[1]}")
    return output
