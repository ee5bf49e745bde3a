"""Models to train: opened, converted where asked, called alike, and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import Pipeline, Source, Trust, open_source, read_manifest, save
from ..checkpoint.atomic import whole_folder
from ..checkpoint.cards import Figures
from ..checkpoint.formats import write_safetensors
from ..checkpoint.formats.tensors import separate_state
from ..checkpoint.manifest import CONFIG_NAME, MANIFEST_NAME, write_json
from ..checkpoint.shipped import local_folder_of
from ..errors import RecipeError, SourceError
from ..families import family
from ..graph import unwrap
from ..graph.latents import decode, encode
from ..plan import Plan
from ..rewrite import FUSIBLE, convert, fuse
from ..scanning import NEAREST, UNTRAINED
from .initial import start_at_zero
from .model_files import remove_model
from .schema import ModelSource

NO_TRUST = Trust()


def open_model(source: ModelSource, trust: Trust = NO_TRUST, where: str = "the recipe") -> nn.Module:
    """The model that a recipe names, in float32, with every weight trainable.

    Args:
        trust: what the person lets it do.
        where: what names the model, for messages.

    Raises:
        SourceError: it cannot be opened; is a pipeline; or runs code that is not trusted.
        PlanError, ConversionError: it cannot be converted.
        RecipeError: a pattern of `zero` matches no layer.
    """
    opened = _opened(source, trust, where)
    if isinstance(opened, Pipeline):
        raise SourceError(f"{source.source} is a pipeline: name the folder of one of its models")
    model = opened.build()
    if not isinstance(model, nn.Module):
        raise SourceError(
            f"{source.source} is an exported program, whose training graph is gone: name the model itself"
        )
    model = unwrap(model).float()
    if source.convert is not None:
        model = convert(model, policy=source.convert)
    start_at_zero(model, source.zero)
    return model.requires_grad_(True)


def _opened(source: ModelSource, trust: Trust, where: str) -> Source | Pipeline:
    return open_source(
        source.source,
        model=source.architecture,
        arguments=source.arguments,
        allow=trust.allow,
        trust=trust.pickle,
        trust_code=trust.code,
        named_by=where,
        named=trust.named,
    )


def teacher_of(folder: Path) -> ModelSource:
    """What a converted folder was made from, as its manifest says: words of the folder's, which grant no trust.

    Raises:
        RecipeError: the original had no trained weights, or cannot be opened again from what is written there.
    """
    folder = local_folder_of(folder)
    if not (folder / MANIFEST_NAME).is_file():
        raise RecipeError(f"teacher is not set, and {folder} does not say what it was converted from")
    origin: dict[str, Any] = read_manifest(folder)["source"]
    kind, path = origin.get("kind"), str(origin.get("path", ""))
    if origin.get("weights") == "fresh":
        raise RecipeError("teacher is not set, and the original had no trained weights: there is nothing to learn from")
    if kind == "reference":
        return ModelSource(source=str(origin.get("reference")), arguments=origin.get("arguments", {}))
    if kind in ("diffusers folder", "prismify folder") and path:
        return ModelSource(source=path)
    if kind == "weights" and path:
        arguments = origin.get("arguments", {})
        return ModelSource(source=path, architecture=origin.get("reference"), arguments=arguments)
    raise RecipeError(f"teacher is not set, and {folder} was made from a {kind}, which has no path: set teacher.source")


def fuse_if(model: nn.Module, wanted: bool) -> None:
    """Fuse a converted model's blocks in place; a model that holds nothing to fuse runs as it is."""
    if wanted and any(isinstance(module, FUSIBLE) for module in model.modules()):
        fuse(model)


def is_autoencoder(model: nn.Module) -> bool:
    """Whether a model has `encode` and `decode`."""
    return callable(getattr(model, "encode", None)) and callable(getattr(model, "decode", None))


@torch.no_grad()
def reconstruct(model: nn.Module, images: Tensor) -> Tensor:
    """Images through an autoencoder, by the mean of their latents."""
    return decode(model, encode(model, images).mean)[0]


def save_model(
    model: nn.Module,
    folder: Path,
    source: ModelSource,
    trained: str,
    trust: Trust = NO_TRUST,
    beside: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    recipe: str | None = None,
    figures: Sequence[Figures] = (),
) -> None:
    """Write a trained model as a folder that `prismify` opens again.

    A converted model becomes a prismify folder; an unconverted one of diffusers' a diffusers folder; any other its
    state dict.

    Args:
        trained: how, in words, for the folder's report.
        beside: further JSON files of the folder, by their names.
        recipe: as YAML, what goes on with the training of a converted model.
        figures: what was measured of a converted model, for its card.

    Raises:
        OutputError: the folder cannot be written.
    """
    plan: Plan | None = getattr(model, "prismify_plan", None)
    if plan is not None:
        notes = (*(note for note in plan.notes if note not in (UNTRAINED, NEAREST)), trained)
        model.prismify_plan = dataclasses.replace(plan, notes=notes)  # type: ignore[assignment]
        save(model, folder, force=True, source=_origin(source, trust), beside=beside, recipe=recipe, figures=figures)
        return
    if folder.is_dir():
        remove_model(folder)  # it is made again from the state beside it
    with whole_folder(folder) as draft:
        is_diffusers = type(model).__module__.startswith("diffusers.")
        config = family("diffusers").config_of(model) if is_diffusers else None
        for name, content in {**({} if config is None else {CONFIG_NAME: config}), **beside}.items():
            write_json(draft / name, content)
        weights = "model.safetensors" if config is None else "diffusion_pytorch_model.safetensors"
        write_safetensors(separate_state(model), draft / weights)


def _origin(source: ModelSource, trust: Trust) -> Source | None:
    """The source a converted model came from, where its folder still says so; else the model describes itself."""
    opened = _opened(source, trust, "the recipe")
    return opened if isinstance(opened, Source) else None
