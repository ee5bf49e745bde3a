"""Put a model on a hub: one commit with all of its files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from ..checkpoint import save
from ..checkpoint.cards import CARD_NAME, is_as_written
from ..checkpoint.hub import HubName, hub_errors, hub_name, is_weights
from ..checkpoint.manifest import CONFIG_NAME, MANIFEST_NAME, PIPELINE_NAME
from ..errors import OutputError, SourceError
from ..training.finished import run_of
from .contents import contents_of, model_folder
from .papers import Contents

#: Files of an earlier push that would change what this one means; others in the repository are left alone.
_DECIDING = (MANIFEST_NAME, CONFIG_NAME, PIPELINE_NAME)


@dataclass(frozen=True)
class Pushed:
    """What went to a hub.

    Args:
        name: the repository, as `prismify.load` takes it.
        url: of the commit.
        files: their names there.
        kept_card: the repository's card was a person's, and stayed.
        elsewhere: folders outside the model's that files came from, as a denoiser's record names them.
    """

    name: str
    url: str
    files: tuple[str, ...]
    kept_card: bool = False
    elsewhere: tuple[str, ...] = ()


def push_to_hub(
    model_or_folder: nn.Module | ExportedProgram | str | Path | Any,
    name: str,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str = "Upload a model by prismify",
    replace_card: bool = False,
    token: str | None = None,
    watch: Callable[[str], None] = lambda text: None,
) -> Pushed:
    """Put a model, or a folder of one, on a hub as one commit; the repository is made where there is none.

    Of a folder that prismify wrote, what its manifest lists goes, with its card, `evaluation.json` and licence; of a
    run its best weights; of a diffusers folder what opening it takes. Paths of this machine in manifest, report and
    recipe are cut to their last word. What an earlier push left of another model is removed in the same commit.

    Args:
        model_or_folder: a converted model, a model or pipeline with `save_pretrained`, or a folder.
        name: "owner/name".
        private: a repository that is made now is seen by its owner only; one that is there must be so.
        branch: to commit to, made from the main branch where there is none.
        message: of the commit.
        replace_card: replace the repository's README.md although a person wrote or edited it.
        token: of the hub; by default the one of `hf auth login` or HF_TOKEN.
        watch: is told what is done, in words.

    Raises:
        SourceError: there is no model to push.
        OutputError: the hub refuses, or cannot be reached; nothing was committed.
    """
    target = hub_name(name)
    if target is None or target.revision is not None:
        raise OutputError(f"{name!r} is no name of a repository: give owner/name")
    if isinstance(model_or_folder, (str, Path)):
        folder = model_folder(Path(model_or_folder))
        contents = contents_of(folder, name)
        pushed = _push(contents, target, private, branch, message, replace_card, token, watch)
        return replace(pushed, elsewhere=_elsewhere(contents, folder))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / target.repository.partition("/")[2]
        _write(model_or_folder, folder)
        return _push(contents_of(folder, name), target, private, branch, message, replace_card, token, watch)


def _elsewhere(contents: Contents, folder: Path) -> tuple[str, ...]:
    """The folders outside of the model's that files are taken from."""
    own = (folder.resolve(), *filter(None, [run_of(folder.resolve())]))
    paths = [content for content in contents.values() if isinstance(content, Path)]
    return tuple(sorted({str(path.parent) for path in paths if not any(o in path.resolve().parents for o in own)}))


def _write(model: Any, folder: Path) -> None:
    """A model as a folder: prismify's where it was converted, else its own library's."""
    if getattr(model, "prismify_plan", None) is not None:
        return save(model, folder)
    if any(hasattr(part, "prismify_plan") for part in getattr(model, "components", {}).values()):
        raise SourceError("a pipeline with converted parts is pushed by its folder: give the folder that convert wrote")
    if not callable(getattr(model, "save_pretrained", None)):
        raise SourceError(
            f"this {type(model).__name__} was not converted, and has no save_pretrained: convert it first"
        )
    model.save_pretrained(folder)


def _push(
    contents: Contents,
    name: HubName,
    private: bool,
    branch: str | None,
    message: str,
    replace_card: bool,
    token: str | None,
    watch: Callable[[str], None],
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    with hub_errors(name, OutputError):
        watch(f"asking for {name}")
        api.create_repo(name.repository, private=private, exist_ok=True)
        if private and api.model_info(name.repository).private is False:
            raise OutputError(f"{name} is there already, and public: nothing was pushed; make it private there first")
        if branch is not None:
            api.create_branch(name.repository, branch=branch, exist_ok=True)
        there = {one.rfilename for one in api.model_info(name.repository, revision=branch).siblings or ()}
        kept_card = CARD_NAME in there and not replace_card and not _is_ours(api, name, branch)
        if kept_card:
            contents = {file: content for file, content in contents.items() if file != CARD_NAME}
        gone = sorted(
            file for file in there - contents.keys() if is_weights(Path(file).name) or Path(file).name in _DECIDING
        )
        operations = [CommitOperationAdd(file, str(c) if isinstance(c, Path) else c) for file, c in contents.items()]
        operations += [CommitOperationDelete(file) for file in gone]
        watch(f"uploading {len(contents)} files to {name}")
        done = api.create_commit(name.repository, operations, commit_message=message, revision=branch)
    full = name.repository if branch is None else f"{name.repository}@{branch}"
    return Pushed(full, str(done.commit_url), tuple(sorted(contents)), kept_card)


def _is_ours(api: Any, name: HubName, branch: str | None) -> bool:
    """Whether the repository's card is one that prismify wrote and nobody changed."""
    with tempfile.TemporaryDirectory() as scratch:
        path = api.hf_hub_download(name.repository, CARD_NAME, revision=branch, local_dir=scratch)
        return is_as_written(Path(path).read_text(encoding="utf-8", errors="replace"))
