"""Files outside `docs` that pages link to: each has a page of its own, so that the site needs no forge."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

#: Pages of the repository that are pages of the site.
PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "prismify/pretrained/README.md": "pretrained.md",
}
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
_FENCE = re.compile(r"^(```.*?^```\n?)", re.MULTILINE | re.DOTALL)


def links(markdown: str) -> Iterator[str]:
    """The local links of a page, code left out."""
    for part in _FENCE.split(markdown)[::2]:
        yield from (link for link in _LINK.findall(part) if "://" not in link)


def place(path: str) -> str:
    """Where the site has a file of the repository, as a source of MkDocs: `path` from the root."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return PAGES.get(path) or f"source/{path}.md"


def home(source: str) -> str:
    """Where the repository has a page of the site, from the root."""
    back = {new: old for old, new in PAGES.items()}
    return back.get(source) or f"docs/{source}"


def relinked(markdown: str, source: str) -> str:
    """A page with its links as the site has them."""
    if source.startswith(("source/", "api/")):
        return markdown
    here, folder = posixpath.dirname(home(source)), posixpath.dirname(source)

    def new(link: re.Match[str]) -> str:
        if "://" in link[1]:
            return link[1]
        target = place(posixpath.normpath(posixpath.join(here, link[1])))
        return posixpath.relpath(target, folder or ".")

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(new, part) for part in parts[::2]]
    return "".join(parts)


def pages(root: Path) -> dict[str, str | bytes]:
    """The repository's own pages, and a page for every file or folder that any of them or of `docs` links to."""
    found: dict[str, str | bytes] = {new: (root / old).read_text(encoding="utf-8") for old, new in PAGES.items()}
    sources = [root / old for old in PAGES] + sorted((root / "docs").rglob("*.md"))
    for page in sources:
        here = page.parent.relative_to(root).as_posix()
        for link in links(page.read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(here, link))
            if place(path).startswith("source/"):
                found[place(path)] = _shown(root / path, path)
    return found


def _shown(file: Path, path: str) -> str:
    """A file, or all Python files of a folder, as a page that no search finds before the pages themselves."""
    lines = ["---", "search:", "  exclude: true", "---", "", f"# {path}", ""]
    if file.is_dir():
        for one in sorted(file.glob("*.py")):
            lines += [f"## {one.name}", "", *_fenced(one), ""]
    else:
        lines += _fenced(file)
    return "\n".join(lines) + "\n"


def _fenced(file: Path) -> list[str]:
    return [f"````{_LANGUAGES.get(file.suffix, 'text')}", file.read_text(encoding="utf-8").rstrip("\n"), "````"]
