"""Names on a hub: `owner/name`, `owner/name@revision`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: What ends a file's name, so that `models/vae.pt` which is not there stays a missing file.
_FILES = {
    ".bin", ".ckpt", ".gz", ".html", ".index", ".ipynb", ".jpeg", ".jpg", ".json", ".jsonl", ".md", ".npz", ".onnx",
    ".png", ".pt", ".pt2", ".pth", ".py", ".safetensors", ".tar", ".txt", ".yaml", ".yml", ".zip",
}  # fmt: skip
_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(?:@(?P<revision>[\w.][\w./-]*))?")


@dataclass(frozen=True)
class HubName:
    """A repository on a hub, and which state of it.

    Args:
        repository: `owner/name`.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def hub_name(text: str) -> HubName | None:
    """The hub's name that a text may be; None where it cannot be one.

    Example:
        >>> hub_name("owner/name@v2")
        HubName(repository='owner/name', revision='v2')
        >>> hub_name("folder/weights.pt") is hub_name("diffusers:UNet2DModel") is hub_name("a/b/c") is None
        True
    """
    found = _NAME.fullmatch(text)
    if found is None or ".." in text or PurePosixPath(found["repository"]).suffix.lower() in _FILES:
        return None
    return HubName(found["repository"], found["revision"])


def is_path_here(text: str) -> bool:
    """Whether a name that is nowhere reads as a path all the same: its first folder is here.

    `runs/autoencoder` beside a folder `runs` is a slip of the fingers and no question to ask of a hub; one who means
    the hub names a revision: `runs/autoencoder@main`.
    """
    return "@" not in text and Path(text).parent.is_dir()
