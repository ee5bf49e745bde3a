"""The JSON files of a folder: names, versions, reading and writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import SourceError

FORMAT_VERSION = 1
MANIFEST_NAME = "prismify.json"
REPORT_NAME = "report.json"
CONFIG_NAME = "config.json"
PIPELINE_NAME = "model_index.json"


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
    wanted = ("parts",) if manifest.get("kind") == "pipeline" else ("model", "plan", "source")
    for key in wanted:
        if key not in manifest:
            raise SourceError(f"{path} lacks {key!r}: it is damaged")
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
        content = json.loads(path.read_text())
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a JSON object")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n")
