"""The files of a folder that make up its model, as they go to a hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from ..checkpoint.cards import (
    CARD_NAME,
    Figures,
    card_text,
    edited_card,
    evaluation_figures,
    front_matter,
    original_licence,
)
from ..checkpoint.cards.licences import LICENCE_FILES, Licence, folder_name
from ..checkpoint.folder import PAGE_NAME, RECIPE_NAME, write_report
from ..checkpoint.hub import needed_files
from ..checkpoint.manifest import (
    CONFIG_NAME,
    MANIFEST_NAME,
    PIPELINE_NAME,
    REPORT_NAME,
    files_in,
    listed,
    read_json,
    read_manifest,
    read_report,
)
from ..errors import SourceError
from ..page import HTML_NAME
from ..training.engine.ending import run_figures
from ..training.finished import MODELS, run_of

Contents = dict[str, Path | bytes]


def model_folder(path: Path) -> Path:
    """The folder of a model that a person names: of a run its best weights, or its last.

    Raises:
        SourceError: there is none.
    """
    folder = path
    if run_of(path) == path:
        folder = next((path / name for name in MODELS if (path / name).is_dir()), path)
    if not any((folder / name).is_file() for name in (MANIFEST_NAME, CONFIG_NAME, PIPELINE_NAME)):
        what = "no such folder" if not folder.is_dir() else "holds no model that prismify or diffusers wrote"
        raise SourceError(f"{path}: {what}")
    return folder


def contents_of(folder: Path, name: str) -> Contents:
    """The files to push: those that a manifest lists, or those that opening a diffusers model takes.

    What they say of places on this machine is left out: of a path only its last word goes.

    Args:
        name: of the repository, for the card.

    Raises:
        SourceError: the folder is damaged, or lists a file that is not there, or lies elsewhere.
    """
    if not (folder / MANIFEST_NAME).is_file():
        names = needed_files(files_in(folder), str(folder))
        return {one: folder / one for one in names}
    manifest = read_manifest(folder)
    names = [n for n in listed(manifest) or () if not (folder / n).is_dir()]
    found: Contents = {one: _inside(folder, one) for one in (*names, MANIFEST_NAME)}
    for one in (*LICENCE_FILES, "evaluation.json"):
        if (folder / one).is_file():
            found[one] = folder / one
    for part in ("", *(f"{p}/" for p in manifest.get("parts", ()))):
        found |= _without_places(folder / part, part, found)
    found[CARD_NAME] = _card(folder, manifest, name).encode()
    return found


def _inside(folder: Path, name: str) -> Path:
    """A file that a manifest lists."""
    path = folder / name
    if not path.is_file() or folder.resolve() not in path.resolve().parents:
        raise SourceError(f"{folder / MANIFEST_NAME} lists {name}, which is no file in this folder")
    return path


def _without_places(folder: Path, part: str, found: Contents) -> Contents:
    """The manifest, the report and the recipe without the paths of this machine."""
    changed: Contents = {}
    manifest, report = read_json(folder / MANIFEST_NAME), read_report(folder)
    manifest["source"] = _shortened(manifest["source"])
    changed[f"{part}{MANIFEST_NAME}"] = _json(manifest)
    report = _report_without_places(report)
    with tempfile.TemporaryDirectory() as scratch:
        write_report(report, Path(scratch))
        for one in (REPORT_NAME, PAGE_NAME, HTML_NAME):
            if f"{part}{one}" in found:
                changed[f"{part}{one}"] = (Path(scratch) / one).read_bytes()
    if isinstance(recipe := found.get(f"{part}{RECIPE_NAME}"), Path):
        changed[f"{part}{RECIPE_NAME}"] = _recipe(recipe.read_text(encoding="utf-8")).encode()
    evaluation = folder / "evaluation.json"
    if evaluation.is_file():
        changed[f"{part}evaluation.json"] = _json(_shortened(read_json(evaluation)))
    return changed


def _report_without_places(report: dict[str, Any]) -> dict[str, Any]:
    parts = {name: _report_without_places(part) for name, part in report.get("parts", {}).items()}
    changed = {**report, "source": _last(str(report.get("source", ""))), "origin": _shortened(report.get("origin", {}))}
    return {**changed, "parts": parts} if parts else changed


def _shortened(value: Any) -> Any:
    """Plain data with the last word in the place of every absolute path."""
    if isinstance(value, dict):
        return {_last(str(key)): _shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    return _last(value) if isinstance(value, str) else value


def _last(text: str) -> str:
    """The last word of an absolute path, whose repository where it lies in a hub's cache; other text as it is."""
    path, colon, target = text.partition(".py:")
    if not PurePath(path).is_absolute():
        return text
    return folder_name(Path(path)) + colon + target


def _recipe(text: str) -> str:
    """A recipe's lines with the last word of each absolute path; comments and order stay."""
    lines = []
    for line in text.splitlines():
        key, colon, value = line.partition(": ")
        content = yaml.safe_load(value) if colon and value.strip().startswith(("/", "'/", '"/')) else None
        lines.append(f"{key}: {_quoted(_last(content))}" if isinstance(content, str) else line)
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10000).strip()


def _card(folder: Path, manifest: dict[str, Any], name: str) -> str:
    """The card with the repository's name and what is known by now; one that a person edited as it is."""
    kept = edited_card(folder)
    if kept is not None:
        return kept
    return card_text(
        _report_without_places(read_report(folder)),
        _licence(folder, manifest),
        name=name,
        figures=[*_figures(folder)],
        recipe=_trained_by(folder),
        class_name=str(read_json(folder / PIPELINE_NAME).get("_class_name", ""))
        if (folder / PIPELINE_NAME).is_file()
        else None,
    )


def _licence(folder: Path, manifest: dict[str, Any]) -> Licence:
    """What the original states, or, where that is gone by now, what was taken over into the folder's own card."""
    stated = original_licence(manifest["source"])
    if stated.front:
        return stated
    own = original_licence({"kind": "own folder", "path": str(folder)})
    card = front_matter(folder / CARD_NAME)
    where = "the original" if card.get("license") else own.where
    return Licence(own.front, where, own.file, stated.base_model or own.base_model)


def _figures(folder: Path) -> Sequence[Figures]:
    """What was measured, as the folder or its run has it."""
    found = [evaluation_figures(folder)]
    run = run_of(folder)
    if run is not None:
        found.append(evaluation_figures(run))
        notes = [str(note) for note in read_report(folder).get("notes", ())]
        steps = [_step(note) for note in notes if note.startswith("Trained with the recipe")]
        found += run_figures(run, steps[-1]) if steps and steps[-1] is not None else ()
    return [one for one in found if one is not None]


def _step(note: str) -> int | None:
    """The step of "Trained with the recipe autoencoder: 6,583 steps of 8 images."."""
    number = note.partition(": ")[2].partition(" steps")[0].replace(",", "")
    return int(number) if number.isdecimal() and len(number) < 16 else None


def _trained_by(folder: Path) -> dict[str, Any] | None:
    """The recipe beside a model that it trained."""
    path = folder / RECIPE_NAME
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) if text.startswith("# What trained this model") else None
    return content if isinstance(content, dict) else None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
