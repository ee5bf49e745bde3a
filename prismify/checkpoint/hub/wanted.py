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
_VARIANT = r"\.(?P<{}>\w+)"
_SHARD = r"-\d{5}-of-\d{5}"
#: `model.safetensors`, `model-00001-of-00002.safetensors` and their index; of a variant such as fp16,
#: `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors` (or the shard first) and `….index.fp16.json`.
_TENSORS = re.compile(
    rf"(?P<stem>(?:diffusion_pytorch_|pytorch_|)model)(?:{_VARIANT.format('a')})?(?:{_SHARD})?"
    rf"(?:{_VARIANT.format('b')})?\.(?P<format>safetensors|bin)(?:\.index(?:{_VARIANT.format('c')})?\.json)?"
)
_STEMS = {"safetensors": "diffusion_pytorch_model model", "bin": "diffusion_pytorch_model pytorch_model"}
#: Of whole modules; the last two are read without running what they bring, as from a disk: see docs/trust.md.
_WHOLE = frozenset({"buffers.safetensors", "model.pt2", "skeleton.pt"})
#: A model, or the parts of a pipeline.
_DEEPEST = 2
#: A pipeline in shards has a few hundred files.
MOST_FILES = 4096


def needed_files(names: Iterable[str], where: str, variant: str | None = None) -> list[str]:
    """The files of a repository that opening its model takes.

    Of each folder's weights those that `families.diffusers_family.weights_file` would choose: pickled ones only where
    there are no safetensors, those of a variant only where it is asked for, or where there are no others.

    Args:
        variant: of the weights, such as fp16.

    Raises:
        SourceError: a name leads out of the repository; no weights are of the variant; or there are more files than any
            model has.
    """
    names = list(names)
    for name in names:
        if not _is_inside(name):
            raise SourceError(
                f"{where} has a file whose name leads out of its folder, {name!r}: nothing was downloaded"
            )
    paths = [path for path in map(PurePosixPath, names) if len(path.parts) <= _DEEPEST and path.parts[0][:1] != "."]
    kinds = {path: kind for path in paths if (kind := _kind(path.name)) is not None}
    if variant is not None and not any(own == variant for own, _ in kinds.values()):
        others = sorted({own for own, _ in kinds.values() if own})
        raise SourceError(
            f"{where} has no weights of variant {variant!r}; of variants it has {', '.join(others) or 'none'}"
        )
    chosen = {
        folder: min((kinds[path] for path in kinds if path.parent == folder), key=lambda kind: _order(kind, variant))
        for folder in {path.parent for path in kinds}
    }
    found = [
        str(path)
        for path in paths
        if path.name in _DESCRIBING or path.name in _WHOLE or (path in kinds and kinds[path] == chosen[path.parent])
    ]
    if len(found) > MOST_FILES:
        raise SourceError(f"{where} has {len(found):,} files of models; at most {MOST_FILES:,} are taken")
    return sorted(found)


def is_weights(name: str) -> bool:
    """Whether a file of that name, without its folder, holds a model's tensors or modules."""
    return name in _WHOLE or _kind(name) is not None


def _kind(name: str) -> tuple[str, str] | None:
    """(variant or "", format) of a file of tensors; None for any other."""
    found = _TENSORS.fullmatch(name)
    if found is None or found["stem"] not in _STEMS[found["format"]].split():
        return None
    return found["a"] or found["b"] or found["c"] or "", found["format"]


def _order(kind: tuple[str, str], wanted: str | None) -> tuple[bool, bool, str, bool]:
    """What goes first of a folder's kinds of weights."""
    own, form = kind
    return own != (wanted or own), own != "", own, form != "safetensors"


def _is_inside(name: str) -> bool:
    """Whether a name from a repository is a plain path below its folder, on every system."""
    parts = name.split("/")
    return not (set(parts) & {"", ".", ".."} or set(name) & set('\\:\0"<>|\n\r'))
