"""A folder's papers without the places of this machine: of an absolute path its last word stays."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePath
from typing import Any

import yaml

from ..checkpoint.cards.licences import folder_name
from ..checkpoint.folder import PAGE_NAME, RECIPE_NAME, write_report
from ..checkpoint.manifest import MANIFEST_NAME, REPORT_NAME, read_json, read_report
from ..page import HTML_NAME

#: Name in the repository -> the file, or what it holds.
Contents = dict[str, Path | bytes]


def without_places(folder: Path, part: str, found: Contents) -> Contents:
    """The manifest, the report and the recipe without the paths of this machine."""
    changed: Contents = {}
    manifest, report = read_json(folder / MANIFEST_NAME), read_report(folder)
    manifest["source"] = _shortened(manifest["source"])
    changed[f"{part}{MANIFEST_NAME}"] = as_json(manifest)
    report = report_without_places(report)
    with tempfile.TemporaryDirectory() as scratch:
        write_report(report, Path(scratch))
        for one in (REPORT_NAME, PAGE_NAME, HTML_NAME):
            if f"{part}{one}" in found:
                changed[f"{part}{one}"] = (Path(scratch) / one).read_bytes()
    if isinstance(recipe := found.get(f"{part}{RECIPE_NAME}"), Path):
        changed[f"{part}{RECIPE_NAME}"] = _recipe(recipe.read_text(encoding="utf-8")).encode()
    evaluation = folder / "evaluation.json"
    if evaluation.is_file():
        changed[f"{part}evaluation.json"] = as_json(_shortened(read_json(evaluation)))
    return changed


def report_without_places(report: dict[str, Any]) -> dict[str, Any]:
    parts = {name: report_without_places(part) for name, part in report.get("parts", {}).items()}
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


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
