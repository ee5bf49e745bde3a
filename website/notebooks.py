"""Notebooks as pages: run where they lie, so that what they show is what comes out."""

from __future__ import annotations

import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def executed(path: Path, seconds: int = 300) -> Any:
    """The notebook after all its cells, in a kernel of its own that is started in its folder."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(path.parent)}})
    programs = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ["PATH"]]
    )  # `!prismify` of this environment
    return client.execute(env={**os.environ, "PATH": programs})


def pages(path: Path, *, run: bool) -> dict[str, str | bytes]:
    """A page of Markdown and the pictures beside it, by their places in the site."""
    import nbformat

    notebook = executed(path) if run else nbformat.read(path, as_version=4)
    lines: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines += [cell.source, ""]
            continue
        lines += ["```python", cell.source, "```", ""]
        said = ""
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures)}.png"
                pictures[f"notebooks/{name}"] = base64.b64decode(data["image/png"])
                lines += [f"![What the cell above shows]({name})", ""]
            elif output.get("name") != "stderr":  # where libraries warn, and name folders of the machine that builds
                said += output.get("text") or data.get("text/plain", "")
        if said:
            lines += ["```{ .text .output }", _COLOURS.sub("", said).rstrip("\n"), "```", ""]
    return {f"notebooks/{path.stem}.md": "\n".join(lines) + "\n", **pictures}
