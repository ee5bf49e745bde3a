"""A repository on a hub as a folder here: what its model needs of it, as files, and nothing else."""

from __future__ import annotations

import glob
from functools import lru_cache
from pathlib import Path

from ...errors import SourceError
from .names import HubName
from .refusals import hub_errors
from .wanted import needed_files


def fetched(name: HubName, variant: str | None = None) -> Path:
    """The folder of a repository's model in the hub's cache, downloaded where it is not there yet.

    What is asked for twice in a process is fetched once, so that it is one state of the repository throughout.
    Without a network, or with HF_HUB_OFFLINE, it is what the cache has.

    Args:
        variant: of the weights, such as fp16.

    Raises:
        SourceError: there is no such repository or revision, or none that may be seen; it holds no model; nobody
            answers, and the cache has nothing either.
    """
    from huggingface_hub import constants

    return _fetched(name, variant, constants.ENDPOINT, constants.HF_HUB_CACHE)


@lru_cache
def _fetched(name: HubName, variant: str | None, endpoint: str, cache: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    with hub_errors(name, SourceError):
        if not constants.HF_HUB_OFFLINE:
            try:
                listed = HfApi(endpoint=endpoint).model_info(name.repository, revision=name.revision).siblings
            except HfHubHTTPError:
                raise
            except Exception as error:  # nobody answers: what the cache has will do
                return _cached(name, cache, error)
            files = needed_files((one.rfilename for one in listed or ()), str(name), variant)
            if not files:
                raise SourceError(
                    f"{name} holds no config.json, model_index.json or prismify.json: it is no diffusers model, no "
                    "pipeline, and nothing prismify wrote"
                )
            patterns = [glob.escape(file) for file in files]
            return Path(
                snapshot_download(
                    name.repository,
                    revision=name.revision,
                    allow_patterns=patterns,
                    endpoint=endpoint,
                    cache_dir=cache,
                )
            )
        return _cached(name, cache)


def _cached(name: HubName, cache: str, because: Exception | None = None) -> Path:
    """What an earlier process downloaded."""
    from huggingface_hub import snapshot_download

    describing = ["prismify.json", "config.json", "model_index.json"]
    try:
        found = snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=describing,
            cache_dir=cache,
            local_files_only=True,
        )
    except Exception:
        if because is None:
            raise
        raise because from None
    return Path(found)
