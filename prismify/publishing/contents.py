"""The files of a folder that make up its model, as they go to a hub."""

from __future__ import annotations

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
from ..checkpoint.cards.licences import LICENCE_FILES, Licence
from ..checkpoint.folder import RECIPE_NAME
from ..checkpoint.hub import needed_files
from ..checkpoint.manifest import (
    CONFIG_NAME,
    MANIFEST_NAME,
    PIPELINE_NAME,
    files_in,
    listed,
    read_json,
    read_manifest,
    read_report,
)
from ..checkpoint.shipped import shipped_models
from ..errors import SourceError
from ..training.engine.ending import run_figures
from ..training.finished import MODELS, run_of
from ..training.model_files import DENOISING_NAME
from .papers import Contents, as_json, report_without_places, without_places

#: Where a denoiser's autoencoder lies in its repository, and the parts of its text encoder.
_AUTOENCODER, _TEXT_PARTS = "autoencoder", ("tokenizer", "text_encoder")


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
        found |= without_places(folder / part, part, found)
    found[CARD_NAME] = _card(folder, manifest, name).encode()
    if DENOISING_NAME in found:
        found |= _with_parts(folder)
    return found


def _with_parts(folder: Path) -> Contents:
    """What a denoiser needs beside itself: its autoencoder and its text encoder, by names within the repository.

    Raises:
        SourceError: one of them is not there, or is no folder.
    """
    record = read_json(folder / DENOISING_NAME)
    found: Contents = {}
    source = ((record.get("latents") or {}).get("autoencoder") or {}).get("source")
    if isinstance(source, str) and source not in shipped_models():
        path = _part(folder, source, "autoencoder")
        own = contents_of(model_folder(path), source)
        found |= {f"{_AUTOENCODER}/{name}": content for name, content in own.items() if name != CARD_NAME}
        if (path / CARD_NAME).is_file():
            found[f"{_AUTOENCODER}/{CARD_NAME}"] = path / CARD_NAME
        record["latents"]["autoencoder"]["source"] = _AUTOENCODER
    if isinstance(texts := record.get("texts"), str):
        path = _part(folder, texts, "text encoder")
        names = [name for name in needed_files(files_in(path), str(path)) if PurePath(name).parts[0] in _TEXT_PARTS]
        found |= {name: path / name for name in names}
        record["texts"] = "."
    return {**found, DENOISING_NAME: as_json(record)}


def _part(folder: Path, name: str, what: str) -> Path:
    """The folder that a denoiser's record names, from where it was trained or in the model's own folder."""
    path = next((p for p in (folder / name, Path(name)) if p.is_dir()), None)
    if path is None:
        raise SourceError(
            f"{folder / DENOISING_NAME} names its {what} {name}, which is no folder here: it belongs to the model; put "
            "it back"
        )
    return path


def _inside(folder: Path, name: str) -> Path:
    """A file that a manifest lists."""
    path = folder / name
    if not path.is_file() or folder.resolve() not in path.resolve().parents:
        raise SourceError(f"{folder / MANIFEST_NAME} lists {name}, which is no file in this folder")
    return path


def _card(folder: Path, manifest: dict[str, Any], name: str) -> str:
    """The card with the repository's name and what is known by now; one that a person edited as it is."""
    kept = edited_card(folder)
    if kept is not None:
        return kept
    return card_text(
        report_without_places(read_report(folder)),
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
