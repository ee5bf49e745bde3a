"""Tensors that take long to make, on disk: shards that are whole or not there, so that a killed run goes on."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ..checkpoint.atomic import clear_drafts, whole_file
from ..checkpoint.formats import write_safetensors
from ..checkpoint.manifest import read_json, write_json
from ..errors import OutputError, RecipeError, SourceError, TrainingError
from ..training.engine import Run

_RECORD, _LOCK = "latents.json", ".lock"
#: Samples in a shard.
SHARD = 2048


def shard_path(folder: Path, number: int) -> Path:
    """The file of shard number `number`."""
    return folder / f"shard-{number:05d}.safetensors"


def made_shards(
    run: Run,
    place: str | None,
    hashed: str,
    facts: Mapping[str, Any],
    count: int,
    make: Callable[[range], dict[str, Tensor]],
) -> Path:
    """The folder of the shards of `count` samples, made where they are not there yet.

    Every process makes its share of them; one that is there is not made again.

    Args:
        place: the folder for several runs to share; None is the run's own.
        hashed: of the model that makes them, which names the folder.
        facts: what they are made from, as JSON.
        make: the tensors of some samples, by their numbers.

    Raises:
        RecipeError: the folder holds samples of something else.
        TrainingError: another run is making them.
    """
    facts = {**facts, "shard": SHARD}
    key = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:8]
    folder = Path(place or run.folder / "latents") / f"{hashed}-{key}"
    shards = -(-count // SHARD)
    with _held(folder, run.leads):
        if run.leads:
            _check(folder, facts)
        run.processes.wait()
        for number in range(run.shares.rank, shards, run.shares.processes):
            if not _is_whole(shard_path(folder, number)):
                run.say(f"making latents: shard {number + 1} of {shards}")
                tensors = make(range(number * SHARD, min((number + 1) * SHARD, count)))
                with whole_file(shard_path(folder, number)) as draft:
                    write_safetensors(tensors, draft)
        run.processes.wait()
    return folder


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "mean" in file.keys()  # noqa: SIM118 - it is no dict
    except Exception:  # not there, or damaged: made again
        return False


def _check(folder: Path, facts: Mapping[str, Any]) -> None:
    """See that a folder is empty or holds what is wanted; drafts of a killed run are cleared."""
    clear_drafts(folder)
    record = folder / _RECORD
    if not record.is_file():
        if strange := sorted(p.name for p in folder.iterdir() if p.name != _LOCK):
            raise RecipeError(f"{folder} holds {strange[0]} and no {_RECORD}: set latents.path to another folder")
        with whole_file(record) as draft:
            write_json(draft, dict(facts))
    try:
        found = read_json(record)
    except SourceError as error:
        raise RecipeError(f"{error}: remove {folder}") from error
    for name, wanted in facts.items():
        if found.get(name) != wanted:
            raise RecipeError(
                f"{folder} holds latents of another {name} ({found.get(name)}, not {wanted}): set latents.path"
            )


@contextmanager
def _held(folder: Path, leads: bool) -> Iterator[None]:
    """Hold a folder of latents while they are made; the leading process does so for all."""
    if not leads:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise TrainingError(f"another run is making the latents in {folder}: wait for it") from error
    try:
        yield
    finally:
        os.close(descriptor)
