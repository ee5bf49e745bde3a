"""Which files of a repository a model needs: data of known names, no program, and no checkpoint of other frameworks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from ...errors import SourceError

#: What describes a model, says how to use it and what it is licensed under.
_DESCRIBING = {
    "prismify.json", "report.json", "config.json", "model_index.json", "denoising.json", "evaluation.json",
    "recipe.yaml", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt",
    "generation_config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json",
    "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
}  # fmt: skip
_TENSORS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?|buffers\.safetensors"
)
#: Read without running what they bring, as from a disk; see docs/trust.md.
_CHECKED = frozenset({"model.pt2", "skeleton.pt"})
_PICKLED = re.compile(r"(?:diffusion_)?pytorch_model(?:-\d{5}-of-\d{5})?\.bin(?:\.index\.json)?")
#: A model, or the parts of a pipeline.
_DEEPEST = 2
#: A pipeline in shards has a few hundred files.
MOST_FILES = 4096


def needed_files(names: Iterable[str], where: str) -> list[str]:
    """The files of a repository that opening its model takes.

    Pickled weights are among them only where their folder has no safetensors.

    Raises:
        SourceError: a name leads out of the repository; or there are more files than any model has.
    """
    names = list(names)
    for name in names:
        if not _is_inside(name):
            raise SourceError(
                f"{where} has a file whose name leads out of its folder, {name!r}: nothing was downloaded"
            )
    paths = [path for path in map(PurePosixPath, names) if len(path.parts) <= _DEEPEST and path.parts[0][:1] != "."]
    safe = {path.parent for path in paths if _TENSORS.fullmatch(path.name)}
    found = [
        str(path)
        for path in paths
        if path.name in _DESCRIBING
        or (is_weights(path.name) and not (_PICKLED.fullmatch(path.name) and path.parent in safe))
    ]
    if len(found) > MOST_FILES:
        raise SourceError(f"{where} has {len(found):,} files of models; at most {MOST_FILES:,} are taken")
    return sorted(found)


def is_weights(name: str) -> bool:
    """Whether a file of that name, without its folder, holds a model's tensors or modules."""
    return name in _CHECKED or bool(_TENSORS.fullmatch(name) or _PICKLED.fullmatch(name))


def _is_inside(name: str) -> bool:
    """Whether a name from a repository is a plain path below its folder, on every system."""
    parts = name.split("/")
    return not (set(parts) & {"", ".", ".."} or set(name) & set('\\:\0"<>|\n\r'))
