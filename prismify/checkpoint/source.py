"""Where a model comes from: folders, weights files, references; each opened the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import SourceError
from ..families import family
from .empty import empty_parameters, shapes_only
from .manifest import CONFIG_NAME, MANIFEST_NAME, PIPELINE_NAME, read_config, read_json, read_manifest
from .reference import Reference, parse_reference
from .weights import SUFFIXES, fit_weights, read_weights, sha256, weight_files


@dataclass(frozen=True)
class Source:
    """A model that can be built, and what to write down about where it came from.

    Args:
        label: what the person named.
        origin: plain data for `prismify.json`: kind, path, SHA-256 of the weights.
        rebuild: plain data from which `load` makes the same structure again; None asks for a skeleton.
        make: builds the model; with `empty` no memory is spent on weights where that can be avoided.
        has_weights: whether it brings weights, or only an architecture.
        config: the folder's `config.json`, copied to the output.
    """

    label: str
    origin: dict[str, Any]
    make: Callable[[bool], nn.Module] = field(repr=False)
    rebuild: dict[str, Any] | None = None
    has_weights: bool = True
    config: dict[str, Any] | None = None

    def build(self, *, empty: bool = False) -> nn.Module:
        """The model: with its weights, or on `meta` where that can be.

        Raises:
            SourceError: it cannot be read, or its weights do not fit.
        """
        return self.make(empty).eval()


@dataclass(frozen=True)
class Pipeline:
    """A diffusers pipeline folder: the parts that are models, and everything else, which stays as it is."""

    label: str
    folder: Path
    parts: dict[str, Source]
    others: tuple[str, ...]


def open_source(
    source: str,
    *,
    model: str | None = None,
    arguments: dict[str, Any] | None = None,
    allow: Iterable[str] = (),
    trust: bool = False,
) -> Source | Pipeline:
    """Find out what a SOURCE is; nothing large is read yet.

    Args:
        source: a diffusers folder or pipeline folder, a folder that prismify wrote, a weights file, or a
            model reference (fresh weights).
        model: the reference of the architecture, for a weights file.
        arguments: of the reference's factory.
        allow, trust: for pickled files, as in `read_pickle`.

    Raises:
        SourceError: it is none of these, or lacks what its kind needs.
    """
    path = Path(source)
    arguments = dict(arguments or {})
    if path.is_dir():
        if model or arguments:
            raise SourceError(f"{source} is a folder and says itself which model it holds: drop --model and --arg")
        return _folder(path)
    if path.suffix in SUFFIXES or path.is_file():
        if not path.is_file():
            raise SourceError(f"{source}: no such file")
        reference = parse_reference(model, arguments) if model else None
        return _weights(path, reference, tuple(allow), trust)
    if ":" not in source:
        raise SourceError(
            f"{source}: no such file or folder, and no model reference such as diffusers:AutoencoderKL or timm:resnet18"
        )
    if model:
        raise SourceError("--model names the architecture of a weights file; SOURCE is a model reference itself")
    return _reference(parse_reference(source, arguments))


def _reference(reference: Reference) -> Source:
    origin = {"kind": "reference", "reference": str(reference), "arguments": reference.arguments}
    return Source(
        str(reference),
        origin,
        lambda empty: shapes_only(reference.build) if empty else reference.build(),
        rebuild_from(reference),
        has_weights=any(reference.arguments.get(k) for k in ("pretrained", "weights")),
    )


def _weights(path: Path, reference: Reference | None, allow: tuple[str, ...], trust: bool) -> Source:
    origin: dict[str, Any] = {"kind": "weights", "path": str(path.resolve())}
    if reference is not None:
        origin |= {"reference": str(reference), "arguments": reference.arguments}

    def make(empty: bool) -> nn.Module:
        if reference is not None and empty:
            return shapes_only(reference.without_pretrained().build)
        content = read_weights(path, allow=allow, trust=trust)
        if isinstance(content, nn.Module):
            if reference is not None:
                raise SourceError(f"{path} holds a whole {type(content).__name__}: drop --model")
            return content
        if reference is None:
            raise SourceError(
                f"{path} holds weights without an architecture: name it with --model, "
                "such as --model diffusers:AutoencoderKL or --model file.py:factory"
            )
        built = reference.without_pretrained().build(empty=True)
        fit_weights(built, content, str(path))
        return built

    files = weight_files(path)
    return Source(
        str(path),
        {**origin, "sha256": {file.name: sha256(file) for file in files if file.is_file()}},
        make,
        rebuild_from(reference) if reference else None,
    )


def _folder(folder: Path) -> Source | Pipeline:
    if (folder / PIPELINE_NAME).is_file():
        return _pipeline(folder)
    if (folder / MANIFEST_NAME).is_file():
        return _converted(folder)
    if (folder / CONFIG_NAME).is_file():
        return _diffusers_folder(folder)
    raise SourceError(
        f"{folder} holds no {CONFIG_NAME}, {PIPELINE_NAME} or {MANIFEST_NAME}: "
        "it is no diffusers model, no pipeline, and nothing prismify wrote"
    )


def _converted(folder: Path) -> Source:
    from .folder import load

    manifest = read_manifest(folder)
    origin = {"kind": "prismify folder", "path": str(folder.resolve()), "before": manifest["source"]}
    return Source(str(folder), origin, lambda empty: load(folder), manifest["model"], config=read_config(folder))


def _diffusers_folder(folder: Path) -> Source:
    config = read_config(folder)
    assert config is not None
    diffusers = family("diffusers")
    found = next((folder / name for name in diffusers.WEIGHT_NAMES if (folder / name).is_file()), None)
    files = weight_files(found) if found else []
    origin = {
        "kind": "diffusers folder",
        "path": str(folder.resolve()),
        "class": config.get("_class_name"),
        "sha256": {file.name: sha256(file) for file in files if file.is_file()},
    }

    def make(empty: bool) -> nn.Module:
        if empty:
            return shapes_only(lambda: diffusers.from_config(config))
        if found is None:
            return diffusers.from_config(config)  # type: ignore[no-any-return]
        with empty_parameters():
            model: nn.Module = diffusers.from_config(config)
        state = read_weights(found)
        assert not isinstance(state, nn.Module)
        fit_weights(model, diffusers.rename_old_keys(model, state), str(found))
        return model

    return Source(str(folder), origin, make, {"kind": "diffusers"}, has_weights=found is not None, config=config)


def _pipeline(folder: Path) -> Pipeline:
    index = read_json(folder / PIPELINE_NAME)
    parts = family("diffusers").pipeline_parts(folder, index)
    if not parts:
        raise SourceError(f"{folder}: none of the pipeline's components is a diffusers model")
    opened = {name: _folder(folder / name) for name in parts}
    others = tuple(sorted(p.name for p in folder.iterdir() if p.name not in parts and p.is_dir()))
    return Pipeline(str(folder), folder, {k: v for k, v in opened.items() if isinstance(v, Source)}, others)


def rebuild_from(reference: Reference) -> dict[str, Any]:
    """What `load` needs to build the reference's structure again."""
    plain = reference.without_pretrained()
    return {"kind": "reference", "reference": str(plain), "arguments": plain.arguments}
