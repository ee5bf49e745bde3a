"""What the site makes by itself: the command line, the interface in Python, and links that lead out of `docs`."""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path

import pytest
import typer
import yaml
from prismify.cli.main import app

import prismify
from website import commands, interface, outside

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class _Reader(yaml.SafeLoader):
    """MkDocs' own tags are passed over."""


_Reader.add_multi_constructor("!", lambda loader, suffix, node: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), _Reader)


def navigation(entry: object) -> set[str]:
    """Every page below an entry of the navigation."""
    if isinstance(entry, str):
        return {entry}
    return set().union(*map(navigation, entry if isinstance(entry, list) else entry.values()))  # type: ignore[attr-defined]


def made() -> set[str]:
    """The pages that the site has."""
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {f"notebooks/{path.stem}.md" for path in (DOCS / "notebooks").glob("*.ipynb")}
    return pages | {"command-line.md"} | {f"api/{name}.md" for name in interface.pages()} | set(outside.pages(ROOT))


def test_every_command_and_option_is_on_its_page() -> None:
    page = commands.page()
    found = dict(commands.commands(typer.main.get_command(app)))
    assert len(found) > 10
    for words, command in found.items():
        part = page.split(f"## prismify {' '.join(words)} {{")[1].split("\n## ")[0]
        for one in command.params:
            name = max(one.opts, key=len) if one.param_type_name == "option" else one.metavar or one.name.upper()
            assert f"`{name.replace('|', chr(92) + '|')}" in part or name in part, (words, name)


def test_the_public_list_is_on_its_page_by_where_it_is_defined() -> None:
    page = interface.pages()["index"]
    assert re.findall(r"heading: (\S+)", page) == [f"prismify.{name}" for name in prismify.__all__]
    assert "::: prismify.scanning.scan.scan\n" in page  # and not the module of that name
    for place in re.findall(r"^::: (\S+)$", page, re.MULTILINE):
        module, _, name = place.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_the_navigation_has_every_page_that_a_person_looks_for() -> None:
    pages, listed = made(), navigation(SITE["nav"])
    assert listed - pages == set()
    assert {page for page in pages - listed if not page.startswith("source/")} == {"readme.md", "pretrained.md"}


@pytest.mark.parametrize("page", sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))
def test_links_lead_to_pages_of_the_site(page: str) -> None:
    relinked = outside.relinked((DOCS / page).read_text(encoding="utf-8"), page)
    targets = {posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in outside.links(relinked)}
    assert {target for target in targets - made() if not (DOCS / target).is_file()} == set()


def test_links_are_rewritten_outside_code_alone() -> None:
    code = "```\n[d](../../prismify/moved.py)\n```\n"
    text = "[a](../../prismify/moved.py) [b](vae.md#x) [c](https://example.org) [e](../../CHANGELOG.md#x)\n" + code
    assert outside.relinked(text, "howto/a.md") == (
        "[a](../source/prismify/moved.py.md) [b](vae.md#x) [c](https://example.org) [e](../changelog.md#x)\n" + code
    )
    assert outside.relinked("[a](docs/howto/a.md) [b](cli/main.py)", "contributing.md") == (
        "[a](howto/a.md) [b](source/cli/main.py.md)"
    )
