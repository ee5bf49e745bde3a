"""The model that a converted folder was made from, for comparison."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from ..errors import SourceError
from ..families import family
from ..graph import unwrap
from .manifest import CONFIG_NAME, MANIFEST_NAME, read_config, read_manifest
from .origin import Source
from .source import open_source
from .structure import damaged_if_it_fails, referred


def build_original(folder: Path, *, allow: Iterable[str] = (), trust_code: bool = False) -> nn.Module | ExportedProgram:
    """The architecture that a folder's conversion began with, its weights fresh; in evaluation mode.

    It is built as the folder describes it; where only a skeleton of the converted modules is there, it is read
    again from the file it came from.

    Raises:
        SourceError: the file is gone, or building takes trust that was not given.
    """
    manifest = read_manifest(folder)
    how, source = manifest["model"], manifest["source"]
    with damaged_if_it_fails(folder):
        if how.get("kind") == "diffusers":
            config = read_config(folder)
            if config is None:
                raise SourceError(f"{folder} has lost its {CONFIG_NAME}")
            built: nn.Module = family("diffusers").from_config(config)
            return built.eval()
        if how.get("kind") == "reference":
            return unwrap(referred(folder, how, trust_code).build()).eval()
        path = Path(str(source.get("path", "")))
        if "path" in source and path.exists():
            opened = open_source(
                str(path), allow=tuple(allow), trust_code=trust_code, named_by=str(folder / MANIFEST_NAME)
            )
            assert isinstance(opened, Source)
            return opened.build()
    raise SourceError(f"{folder} does not say how to build the original again: name it with --original SOURCE")
