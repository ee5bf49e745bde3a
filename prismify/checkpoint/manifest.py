"""The JSON files of a folder: names, versions, reading and writing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import SourceError
from ..families.names import check_part_name
from ..validation import finite, plain_number, read_json_file

FORMAT_VERSION = 1
MANIFEST_NAME = "prismify.json"
REPORT_NAME = "report.json"
CONFIG_NAME = "config.json"
PIPELINE_NAME = "model_index.json"
#: The manifest's list of what prismify wrote, so that `--force` takes nothing else away.
FILES_KEY = "files"
#: The same of the files within its folders.
WITHIN_KEY = "files_within"
#: The manifest's SHA-256 of the files that hold tensors and modules.
HASHES_KEY = "sha256"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's `prismify.json`, seen to be one this version reads.

    Raises:
        SourceError: it is missing, damaged, or of another version.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise SourceError(f"{folder} is not a folder that prismify wrote: it has no {MANIFEST_NAME}")
    manifest = read_json(path)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise SourceError(f"{path} has format version {version!r}; this prismify reads {FORMAT_VERSION}")
    kinds = {"parts": list} if manifest.get("kind") == "pipeline" else {"model": dict, "plan": dict, "source": dict}
    for key, kind in kinds.items():
        if key not in manifest:
            raise SourceError(f"{path} lacks {key!r}: it is damaged")
        if not isinstance(manifest[key], kind):
            raise SourceError(f"{path}: {key!r} is not what prismify writes there: it is damaged")
    for part in manifest.get("parts", ()):
        check_part_name(part, path)
    return manifest


def read_report(folder: Path) -> dict[str, Any]:
    """The folder's `report.json`.

    Raises:
        SourceError: it is missing or damaged.
    """
    report = read_json(folder / REPORT_NAME)
    if "parameters" not in report or not ("layers" in report or "parts" in report):
        raise SourceError(f"{folder / REPORT_NAME} is not a report of prismify's")
    return report


def read_config(folder: Path) -> dict[str, Any] | None:
    """The folder's `config.json`, or None.

    Raises:
        SourceError: it is damaged.
    """
    path = folder / CONFIG_NAME
    return read_json(path) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        SourceError: the file is missing, or holds anything else.
    """
    try:
        content = read_json_file(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SourceError(f"{path} is damaged: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a JSON object")
    return content


def files_in(folder: Path) -> Iterator[str]:
    """Every file, link and empty folder in a folder and those below it, as relative paths; not what Python leaves."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        ends = [n for n in folders if Path(place, n).is_symlink() or not any(Path(place, n).iterdir())]
        for name in (*files, *ends):
            yield Path(place, name).relative_to(folder).as_posix()


def listing(folder: Path) -> dict[str, list[str]]:
    """What a manifest says of the files beside it."""
    within = sorted(name for name in files_in(folder) if "/" in name)
    return {FILES_KEY: sorted(path.name for path in folder.iterdir()), WITHIN_KEY: within}


def listed(manifest: dict[str, Any]) -> list[str] | None:
    """The files and folders that a manifest lists; None where it is damaged."""
    lists = [manifest.get(FILES_KEY), manifest.get(WITHIN_KEY, [])]
    return None if not all(isinstance(names, list) for names in lists) else [str(n) for names in lists for n in names]


def not_listed(folder: Path) -> list[str]:
    """What lies in a folder that prismify wrote, and its manifest does not list.

    Manifests of earlier versions list folders; those stand for what is in them.

    Raises:
        SourceError: the manifest is damaged.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    wrote = listed(manifest)
    if wrote is None:
        raise SourceError(f"{folder / MANIFEST_NAME} is damaged: it lists no files")
    known, whole = {*wrote, MANIFEST_NAME}, WITHIN_KEY not in manifest
    return sorted(n for n in files_in(folder) if n not in known and not (whole and n.partition("/")[0] in known))


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON; see `finite`."""
    text = json.dumps(finite(content), indent=1, allow_nan=False, default=plain_number)
    path.write_text(text + "\n", encoding="utf-8")
