"""What a person names where a folder is meant: a path, a model that comes with prismify, or one on a hub."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import SourceError
from .hub.names import hub_name, is_path_here
from .manifest import MANIFEST_NAME


def shipped_models() -> dict[str, Path]:
    """The trained models that come with prismify: name -> folder."""
    root = Path(str(files("prismify.pretrained")))
    return {p.name: p for p in sorted(root.iterdir()) if (p / MANIFEST_NAME).is_file()}


def folder_of(source: str | Path, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder a person means: a path that exists, else a model that comes along, else one on a hub.

    A repository is downloaded to the hub's cache, as data: whatever it brings, nothing of it is run.

    Args:
        revision: of a repository; `owner/name@revision` says the same.
        variant: of a repository's weights, such as fp16.

    Raises:
        SourceError: the repository cannot be had; or something here is named, which has no revisions.
    """
    text = str(source)
    name = hub_name(text if revision is None else f"{text}@{revision}")
    here = local_folder_of(source)
    if revision is not None and (here.exists() or name is None):
        raise SourceError(f"{source} has no revisions: revision={revision!r} is of a hub's repository, as owner/name")
    if here.exists() or name is None or is_path_here(text if revision is None else f"{text}@{revision}"):
        return here
    from .hub.fetching import fetched

    return fetched(name, variant)


def local_folder_of(source: str | Path) -> Path:
    """The same of what a file names: no file makes prismify ask a hub."""
    path = Path(source)
    return path if path.exists() else shipped_models().get(str(source), path)
