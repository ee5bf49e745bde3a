"""What a model's original says of its licence, and of what it was itself made from. Nothing is guessed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import SourceError
from ..hub.names import hub_name
from ..manifest import CONFIG_NAME, PIPELINE_NAME, read_json
from .marks import CARD_NAME, MOST_BYTES

#: The texts of licences, by the names that hubs know.
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_KEYS = ("license", "license_name", "license_link")
#: How the texts of licences begin that hubs have a word for.
_BEGINNINGS = {"mit license": "mit", "apache license version 2.0": "apache-2.0", "the mit license": "mit"}
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


@dataclass(frozen=True)
class Licence:
    """What an original states.

    Args:
        front: `license` and its like, as front matter has them; empty where nothing is stated.
        where: what states it, in words; empty likewise.
        file: the text of the licence.
        base_model: the repository that the original is, or says it was made from.
    """

    front: dict[str, Any]
    where: str = ""
    file: Path | None = None
    base_model: str | None = None


def original_licence(origin: dict[str, Any]) -> Licence:
    """What the folder that a model came from states: its card's front matter, its config, its licence's text.

    Args:
        origin: as `Source` has it.
    """
    front: dict[str, Any] = {}
    where, file, base = "", None, None
    for folder in _folders(origin):
        card = front_matter(folder / CARD_NAME)
        if not front and (front := {key: card[key] for key in _KEYS if _is_stated(card.get(key))}):
            where = f"the card of {folder_name(folder)}"
        for name in (CONFIG_NAME, PIPELINE_NAME):
            if not front and _is_stated(found := _json(folder / name).get("license")):
                front, where = {"license": found}, f"{name} of {folder_name(folder)}"
        file = file or next((folder / n for n in LICENCE_FILES if _is_small(folder / n)), None)
        own = repository_of(folder)
        stated = card.get("base_model")
        base = base or own or (stated if isinstance(stated, str) and hub_name(stated) is not None else None)
    if file is not None and not front:
        text = file.read_text(encoding="utf-8", errors="replace")[:4096]
        beginning = " ".join(re.sub(r"[^\w.\s]", " ", text).split()).lower()
        known = next((word for start, word in _BEGINNINGS.items() if beginning.startswith(start)), None)
        front = (
            {"license": known} if known else {"license": "other", "license_name": "original", "license_link": file.name}
        )
        where = f"{file.name} of {folder_name(file.parent)}"
    return Licence(front, where, file, base)


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the head of a card; {} where there is none, or it is not that."""
    if not _is_small(path):
        return {}
    found = _FRONT.match(path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n"))
    try:
        content = yaml.safe_load(found[1]) if found is not None else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def repository_of(folder: Path) -> str | None:
    """The repository whose snapshot in the hub's cache a folder is, or lies in; None where it is none."""
    parts = folder.absolute().parts
    for cached, kind in itertools.pairwise(parts):
        if kind == "snapshots" and (found := _SNAPSHOT.fullmatch(cached)) is not None:
            return f"{found[1]}/{found[2]}"
    return None


def folder_name(folder: Path) -> str:
    """What a card calls a folder: a repository by its name, any other by its last word, never by its path."""
    return repository_of(folder) or folder.name


def _folders(origin: dict[str, Any]) -> Iterator[Path]:
    """Where an original may state something: its folder, and that of the pipeline it is a part of."""
    if str(origin.get("kind", "")).endswith(" folder") and isinstance(path := origin.get("path"), str):
        folder = Path(path)
        if folder.is_dir():
            yield folder
        if (folder.parent / PIPELINE_NAME).is_file():
            yield folder.parent


def _is_stated(value: Any) -> bool:
    """Whether a value of front matter is a word, or a few, as hubs take them."""
    several = value if isinstance(value, list) else [value]
    return 0 < len(several) <= 10 and all(isinstance(one, str) and 0 < len(one) <= 300 for one in several)


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= MOST_BYTES


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.is_file() else {}
    except SourceError:
        return {}
