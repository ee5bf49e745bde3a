"""Where a model comes from: folders, weights files, references; each opened the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import SourceError
from ..families import family
from .empty import build_empty, shapes_only
from .folder import PROGRAM_NAME, WEIGHTS_NAME, load
from .manifest import CONFIG_NAME, MANIFEST_NAME, PIPELINE_NAME, read_config, read_json, read_manifest
from .origin import Pipeline, Source
from .programs import PROGRAM_SUFFIX, read_program
from .reference import Reference, parse_reference
from .structure import rebuild_from
from .tensors import fit_weights
from .weights import SUFFIXES, read_state, read_weights, weight_files


@dataclass(frozen=True)
class _Trust:
    """What a person lets a source do."""

    allow: tuple[str, ...]
    pickle: bool
    code: bool


def open_source(
    source: str,
    *,
    model: str | None = None,
    arguments: dict[str, Any] | None = None,
    allow: Iterable[str] = (),
    trust: bool = False,
    trust_code: bool = False,
) -> Source | Pipeline:
    """Find out what a SOURCE is; nothing large is read yet.

    Args:
        source: a diffusers folder or pipeline folder, a folder that prismify wrote, an exported program, a weights
            file, or a model reference (fresh weights).
        model: the reference of the architecture, for a weights file.
        arguments: of the reference's factory.
        allow, trust: for pickled files, as in `read_pickle`.
        trust_code: for folders that prismify wrote, as in `load`.

    Raises:
        SourceError: it is none of these, or lacks what its kind needs.
    """
    path = Path(source)
    arguments = dict(arguments or {})
    trusted = _Trust(tuple(allow), trust, trust_code)
    if path.is_dir():
        if model or arguments:
            raise SourceError(f"{source} is a folder and says itself which model it holds: drop --model and --arg")
        return _folder(path, trusted)
    if path.suffix == PROGRAM_SUFFIX and path.is_file():
        if model or arguments:
            raise SourceError(f"{source} is an exported program and needs no architecture: drop --model and --arg")
        origin = {"kind": "exported program", "path": str(path.resolve())}
        return Source(source, origin, lambda empty: read_program(path, trust=trust), {"kind": "exported"}, (path,))
    if path.suffix in SUFFIXES or path.is_file():
        return _weights(path, model, arguments, trusted)
    if ":" not in source:
        raise SourceError(
            f"{source}: no such file or folder, and no model reference such as diffusers:AutoencoderKL or timm:resnet18"
        )
    if model:
        raise SourceError("--model names the architecture of a weights file; SOURCE is a model reference itself")
    return _reference(parse_reference(source, arguments))


def _reference(reference: Reference) -> Source:
    origin = {"kind": "reference", "reference": str(reference), "arguments": reference.arguments}
    if not reference.runs_code and not reference.pretrained:
        origin["weights"] = "fresh"

    def make(empty: bool) -> nn.Module:
        return shapes_only(reference.build) if empty else reference.build()

    return Source(str(reference), origin, make, rebuild_from(reference))


def _weights(path: Path, model: str | None, arguments: dict[str, Any], trust: _Trust) -> Source:
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if path.suffix == ".py":
        raise SourceError(f"{path} is Python code: name the factory in it, as {path}:factory")
    if arguments and not model:
        raise SourceError("--arg gives arguments to a model reference: name one with --model")
    reference = parse_reference(model, arguments).without_pretrained() if model else None
    origin: dict[str, Any] = {"kind": "weights", "path": str(path.resolve())}
    if reference is not None:
        origin |= {"reference": str(reference), "arguments": reference.arguments}

    def make(empty: bool) -> nn.Module:
        shapes = empty and reference is not None
        content = read_weights(path, allow=trust.allow, trust=trust.pickle, shapes=shapes)
        if isinstance(content, nn.Module):
            if reference is not None:
                raise SourceError(f"{path} holds a whole {type(content).__name__}: drop --model")
            return content
        if reference is None:
            raise SourceError(
                f"{path} holds weights without an architecture: name it with --model, "
                "such as --model diffusers:AutoencoderKL or --model file.py:factory"
            )
        built = shapes_only(reference.build) if empty else reference.build(empty=True)
        fit_weights(built, content, str(path), shapes=shapes)
        return built

    rebuild = rebuild_from(reference) if reference is not None else None
    return Source(str(path), origin, make, rebuild, tuple(weight_files(path)))


def _folder(folder: Path, trust: _Trust) -> Source | Pipeline:
    if (folder / PIPELINE_NAME).is_file():
        return _pipeline(folder, trust)
    return _model_folder(folder, trust)


def _model_folder(folder: Path, trust: _Trust) -> Source:
    if (folder / MANIFEST_NAME).is_file():
        return _converted(folder, trust)
    if (folder / CONFIG_NAME).is_file():
        return _diffusers_folder(folder, trust)
    raise SourceError(
        f"{folder} holds no {CONFIG_NAME}, {PIPELINE_NAME} or {MANIFEST_NAME}: "
        "it is no diffusers model, no pipeline, and nothing prismify wrote"
    )


def _converted(folder: Path, trust: _Trust) -> Source:
    manifest = read_manifest(folder)
    origin = {"kind": "prismify folder", "path": str(folder.resolve()), "before": manifest["source"]}
    rebuild = dict(manifest["model"])
    if rebuild.get("kind") == "reference":
        reference = parse_reference(str(rebuild.get("reference")))
        if reference.file is not None:
            rebuild["reference"] = f"{folder.resolve() / reference.file.name}:{reference.target}"
    return Source(
        str(folder),
        origin,
        lambda empty: load(folder, allow=trust.allow, trust_code=trust.code),
        rebuild,
        (folder / (PROGRAM_NAME if rebuild.get("kind") == "exported" else WEIGHTS_NAME),),
        read_config(folder),
    )


def _diffusers_folder(folder: Path, trust: _Trust) -> Source:
    config = read_config(folder)
    assert config is not None
    diffusers = family("diffusers")
    found: Path | None = diffusers.weights_file(folder)
    origin = {"kind": "diffusers folder", "path": str(folder.resolve()), "class": config.get("_class_name")}
    if found is None:
        origin["weights"] = "fresh"

    def make(empty: bool) -> nn.Module:
        if found is None and not empty:
            return diffusers.from_config(config)  # type: ignore[no-any-return]
        model = (shapes_only if empty else build_empty)(lambda: diffusers.from_config(config))
        if found is not None:
            state = read_state(found, allow=trust.allow, trust=trust.pickle, shapes=empty)
            fit_weights(model, diffusers.rename_old_keys(model, state), str(found), shapes=empty)
        return model

    files = tuple(weight_files(found)) if found else ()
    return Source(str(folder), origin, make, {"kind": "diffusers"}, files, config)


def _pipeline(folder: Path, trust: _Trust) -> Pipeline:
    index = read_json(folder / PIPELINE_NAME)
    parts = family("diffusers").pipeline_parts(folder, index)
    if not parts:
        raise SourceError(f"{folder}: none of the pipeline's components is a diffusers model")
    opened = {name: _model_folder(folder / name, trust) for name in parts}
    others = (p.name for p in folder.iterdir() if p.is_dir() and p.name not in parts and not p.name.startswith("."))
    return Pipeline(str(folder), folder, opened, tuple(sorted(others)))
