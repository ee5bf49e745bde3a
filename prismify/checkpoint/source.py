"""Where a model comes from: folders, weights files, references; each opened the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import SourceError
from ..families import family
from .folder import PROGRAM_NAME, WEIGHTS_NAME, load
from .formats import (
    PROGRAM_SUFFIX,
    SUFFIXES,
    fit_weights,
    is_index,
    read_program,
    read_state,
    read_weights,
    weight_files,
)
from .layouts import Selection, groups_text
from .manifest import CONFIG_NAME, MANIFEST_NAME, PIPELINE_NAME, read_config, read_json, read_manifest
from .origin import Pipeline, Source
from .references import Reference, Trust, build_empty, parse_reference, shapes_only
from .shipped import folder_of, local_folder_of, shipped_models
from .structure import rebuild_from

#: Files by which a folder says itself which model it holds.
_DESCRIBED = (CONFIG_NAME, PIPELINE_NAME, MANIFEST_NAME)


def open_source(
    source: str,
    *,
    model: str | None = None,
    arguments: dict[str, Any] | None = None,
    allow: Iterable[str] = (),
    trust: bool = False,
    trust_code: bool = False,
    config: str | Path | None = None,
    select: Selection | None = None,
    named_by: str | None = None,
    named: Iterable[str] = (),
) -> Source | Pipeline:
    """Find out what a SOURCE is; nothing large is read yet.

    Args:
        source: a diffusers folder or pipeline folder, a folder that prismify wrote, an exported program, a weights
            file, a model that comes with prismify (`shipped_models`), a model reference (fresh weights), or a hub's
            repository (`owner/name`, `owner/name@revision`) where a person names it.
        model: the reference of the architecture, for a weights file.
        arguments: of the reference's factory.
        allow, trust: for pickled files, as in `read_pickle`.
        trust_code: for folders that prismify wrote, as in `load`.
        config: of a weights file, instead of `model`: a diffusers model's folder or its `config.json`.
        select: which of the weights of a checkpoint or folder are wanted.
        named_by: the file that `source` and `model` were read from, where no person gave them: references that run
            code then take `trust_code`.
        named: references that are a person's own, whoever repeats them.

    Raises:
        SourceError: it is none of these, lacks what its kind needs, or runs code that is not trusted.
    """
    named = frozenset(named)
    trusted, select = Trust(trust_code, tuple(allow), trust, named), select or Selection()
    ours = named_by is None or source in named
    path = folder_of(source, variant=select.variant) if ours else local_folder_of(source)
    if not isinstance(arguments or {}, dict):
        raise SourceError(f"{named_by or source}: the arguments of a model are names with values, not {arguments!r}")
    arguments = dict(arguments or {})
    if named_by is not None:
        for text in (source if not path.exists() else None, model):
            if text is not None and ":" in text:
                trusted.check(parse_reference(text, arguments), named_by)
    config = None if config is None else Path(config)
    if path.is_dir() and (model or config) and not any((path / name).is_file() for name in _DESCRIBED):
        return _weights(_weights_in(path, select), model, arguments, config, trusted, select)
    if path.is_dir():
        if model or arguments or config:
            raise SourceError(
                f"{source} is a folder and says itself which model it holds: drop --model, --config and --arg "
                "(in a recipe: architecture and arguments, which {} empties)"
            )
        return _folder(path, trusted, select)
    if select.variant is not None:
        raise SourceError("--variant chooses among the weights of a folder; SOURCE is none")
    if path.suffix == PROGRAM_SUFFIX and path.is_file():
        if model or arguments:
            raise SourceError(f"{source} is an exported program and needs no architecture: drop --model and --arg")
        origin = {"kind": "exported program", "path": str(path.resolve())}
        return Source(source, origin, lambda empty: read_program(path, trust=trust), {"kind": "exported"}, (path,))
    if path.suffix in SUFFIXES or path.is_file():
        return _weights(path, model, arguments, config, trusted, select)
    if ":" not in source:
        raise SourceError(
            f"{source}: no such file or folder, no trained model that comes along ({', '.join(shipped_models())}), and "
            "no model reference such as diffusers:AutoencoderKL or timm:resnet18"
        )
    if model or config or select != Selection():
        raise SourceError(
            "--model names the architecture of a weights file, and --config, --prefix and --ema speak of one; "
            "SOURCE is a model reference itself"
        )
    return _reference(parse_reference(source, arguments))


def _weights_in(folder: Path, select: Selection) -> Path:
    """The only weights file of a folder that does not say what it holds, or the one under a usual name."""
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES]
    if len(files) == 1 and select.variant is None:
        return files[0]
    found: Path | None = family("diffusers").weights_file(folder, select.variant)
    if found is None:
        raise SourceError(f"{folder} holds no weights under a name such as model.safetensors")
    return found


def _reference(reference: Reference) -> Source:
    origin = {"kind": "reference", "reference": str(reference), "arguments": reference.arguments}
    if not reference.runs_code and not reference.pretrained:
        origin["weights"] = "fresh"

    def make(empty: bool) -> nn.Module:
        return shapes_only(reference.build) if empty else reference.build()

    return Source(str(reference), origin, make, rebuild_from(reference))


def _weights(
    path: Path, model: str | None, arguments: dict[str, Any], config: Path | None, trust: Trust, select: Selection
) -> Source:
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if path.suffix == ".py":
        raise SourceError(f"{path} is Python code: name the factory in it, as {path}:factory")
    if arguments and not model:
        raise SourceError("--arg gives arguments to a model reference: name one with --model")
    if model and config:
        raise SourceError("--model and --config both name an architecture: give one of them")
    origin: dict[str, Any] = {"kind": "weights", "path": str(path.resolve())}
    make_empty: Callable[[], nn.Module] | None = None
    rebuild, described = None, None
    if model:
        reference = parse_reference(model, arguments).without_pretrained()
        origin |= {"reference": str(reference), "arguments": reference.arguments}
        make_empty, rebuild = reference.build, rebuild_from(reference)
    elif config is not None:
        described = read_json(config / CONFIG_NAME if config.is_dir() else config)
        origin |= {"config": str(config.resolve()), "class": described.get("_class_name")}
        make_empty, rebuild = (lambda: family("diffusers").from_config(described)), {"kind": "diffusers"}
    files = tuple(weight_files(path))
    notes: list[str] = []
    stored: dict[str, str] | None = {} if is_index(path) else None

    def make(empty: bool) -> nn.Module:
        shapes = empty and make_empty is not None
        content = read_weights(
            path, allow=trust.allow, trust=trust.pickle, shapes=shapes, ema=select.ema, prefix=select.prefix
        )
        if isinstance(content, nn.Module):
            if make_empty is not None:
                raise SourceError(f"{path} holds a whole {type(content).__name__}: drop --model and --config")
            return content
        if make_empty is None:
            raise SourceError(
                f"{path} holds weights without an architecture: name it with --model, such as --model "
                "diffusers:AutoencoderKL or --model file.py:factory, or with --config FOLDER, a diffusers model's own; "
                f"it holds {groups_text(content)}"
            )
        built = (shapes_only if empty else build_empty)(make_empty)
        _fit(built, content, str(path), shapes, select.prefix, notes, stored)
        return built

    return Source(str(path), origin, make, rebuild, files, described, notes, stored)


def _fit(
    built: nn.Module,
    state: dict[str, Tensor],
    where: str,
    shapes: bool,
    prefix: str | None,
    notes: list[str],
    stored: dict[str, str] | None,
) -> None:
    """Fit weights, and note what was chosen; with shapes alone, where each tensor lies in the files."""
    places = {id(tensor): name for name, tensor in state.items()}
    library = type(built).__module__.partition(".")[0]

    def rename(names: dict[str, Tensor]) -> dict[str, Tensor] | None:
        found: dict[str, Tensor] | None = family("diffusers").original_names(built, names)
        if found is not None:
            notes.append("the names of the original release were brought to diffusers' own")
        return found

    notes.clear()
    ours = library == "diffusers"
    fitted, found = fit_weights(
        built,
        state,
        where,
        shapes=shapes,
        prefix=prefix,
        rename=rename if ours else None,
        modernise=(lambda names: family("diffusers").rename_old_keys(built, names)) if ours else None,
    )
    if found:
        notes.append(f"the model lies under {found!r} in the file; {len(state) - len(fitted)} other tensors were left")
    if stored is not None and shapes:
        stored.clear()
        if all(id(tensor) in places for tensor in fitted.values()):
            stored.update({name: places[id(tensor)] for name, tensor in fitted.items()})


def _folder(folder: Path, trust: Trust, select: Selection) -> Source | Pipeline:
    if (folder / PIPELINE_NAME).is_file():
        return _pipeline(folder, trust, select)
    return _model_folder(folder, trust, select)


def _model_folder(folder: Path, trust: Trust, select: Selection) -> Source:
    if (folder / MANIFEST_NAME).is_file():
        if select != Selection():
            raise SourceError(f"{folder} is what prismify wrote: drop --ema, --variant and --prefix")
        return _converted(folder, trust)
    if (folder / CONFIG_NAME).is_file():
        return _diffusers_folder(folder, trust, select)
    raise SourceError(
        f"{folder} holds no {CONFIG_NAME}, {PIPELINE_NAME} or {MANIFEST_NAME}: "
        "it is no diffusers model, no pipeline, and nothing prismify wrote"
    )


def _converted(folder: Path, trust: Trust) -> Source:
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


def _diffusers_folder(folder: Path, trust: Trust, select: Selection) -> Source:
    config = read_config(folder)
    assert config is not None
    diffusers = family("diffusers")
    holder = _averaged_folder(folder) if select.ema else folder
    found: Path | None = diffusers.weights_file(holder, select.variant)
    origin = {"kind": "diffusers folder", "path": str(holder.resolve()), "class": config.get("_class_name")}
    if found is None:
        origin["weights"] = "fresh"
    notes = [f"the averaged (EMA) weights of {holder.name} were taken"] if select.ema else []
    stored: dict[str, str] | None = {} if found is not None and is_index(found) else None

    def make(empty: bool) -> nn.Module:
        if found is None and not empty:
            return diffusers.from_config(config)  # type: ignore[no-any-return]
        model = (shapes_only if empty else build_empty)(lambda: diffusers.from_config(config))
        if found is not None:
            state = read_state(found, allow=trust.allow, trust=trust.pickle, shapes=empty)
            _fit(model, state, str(found), empty, select.prefix, [], stored)
        return model

    files = tuple(weight_files(found)) if found else ()
    return Source(str(folder), origin, make, {"kind": "diffusers"}, files, config, notes, stored)


def _averaged_folder(folder: Path) -> Path:
    """The folder of averaged weights that diffusers' training scripts write beside a model's."""
    beside = folder.absolute().parent / f"{folder.absolute().name}_ema"
    if not beside.is_dir():
        raise SourceError(f"{folder} has no averaged (EMA) weights: there is no folder {beside.name} beside it")
    return beside


def _pipeline(folder: Path, trust: Trust, select: Selection) -> Pipeline:
    index = read_json(folder / PIPELINE_NAME)
    parts = family("diffusers").pipeline_parts(folder, index)
    if not parts:
        raise SourceError(f"{folder}: none of the pipeline's components is a diffusers model")
    with_ema = [name for name in parts if (folder / f"{name}_ema").is_dir()] if select.ema else []
    if select.ema and not with_ema:
        raise SourceError(f"{folder} has no averaged (EMA) weights: no folder such as {parts[0]}_ema is in it")
    opened = {
        name: _model_folder(folder / name, trust, dataclasses.replace(select, ema=name in with_ema)) for name in parts
    }
    others = (p.name for p in folder.iterdir() if p.is_dir() and p.name not in parts and not p.name.startswith("."))
    return Pipeline(str(folder), folder, opened, tuple(sorted(others)))
