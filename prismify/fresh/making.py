"""A fresh model in a folder, with the recipe that trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint import Source, open_source, save
from ..checkpoint.atomic import whole_folder
from ..checkpoint.folder import RECIPE_NAME
from ..checkpoint.formats import write_safetensors
from ..checkpoint.formats.tensors import separate_state
from ..checkpoint.handoff import choose_recipe, recipe_text
from ..checkpoint.manifest import CONFIG_NAME, write_json
from ..errors import OutputError, SourceError
from ..facts import parameter_count
from ..families import family
from ..generators import kept_generators, seed_generators
from ..plan import Policy
from ..rewrite import convert
from ..scanning import scan
from .architectures import architecture

_WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_DENSE_FILES = {CONFIG_NAME, RECIPE_NAME, _WEIGHTS_NAME}


@kept_generators()
def make_folder(
    name: str,
    folder: Path,
    *,
    width: int | None = None,
    channels: int | None = None,
    size: int | None = None,
    classes: int = 0,
    policy: Policy | None = None,
    seed: int = 0,
    force: bool = False,
) -> dict[str, Any]:
    """Write a fresh model and its `recipe.yaml`; returns what was made, as plain data.

    A converted model becomes a folder of prismify's, a dense one of diffusers' a diffusers folder. Of any other dense
    model only the recipe is written, which names what builds it.

    Args:
        name: one of `ARCHITECTURES`.
        width, channels, size: None takes the architecture's own.
        classes: how many the model can be told, 0 for none; one row more says that none is told.
        policy: convert it so; None leaves it dense.
        seed: of the weights.
        force: replace a folder that prismify wrote.

    Raises:
        SourceError: there is no such architecture, or it cannot be built of that width.
        ConversionError, OutputError: see `convert` and `save`.
    """
    made = architecture(name)
    if not force and _is_dense_of_ours(folder):
        raise OutputError(f"{folder} exists; add --force to replace it")
    width, channels, size = width or made.width, channels or made.channels, size or made.size
    if classes and "UNet" not in made.reference:
        raise SourceError(f"{name} is told no classes: leave --classes out")
    arguments = made.arguments(width, channels, size, classes)
    source = open_source(made.reference, arguments=arguments)
    assert isinstance(source, Source)  # a reference names one model
    seed_generators(seed)
    model = source.build()
    assert isinstance(model, nn.Module)
    dense = parameter_count(model)
    if policy is not None:
        model = convert(model, policy=policy)
        save(model, folder, force=force, source=source)
    else:
        _write_dense(model, folder, made.reference, arguments, force)
    return {
        "name": name,
        "reference": made.reference,
        "arguments": arguments,
        "policy": policy.name if policy is not None else None,
        "parameters": parameter_count(model),
        "dense_parameters": dense,
        "recipe": (folder / RECIPE_NAME).is_file(),
    }


def _is_dense_of_ours(folder: Path) -> bool:
    """Whether an earlier `prismify new` may have written all that a folder holds: there is no manifest to say so."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return RECIPE_NAME in names and names <= _DENSE_FILES


def _write_dense(model: nn.Module, folder: Path, reference: str, arguments: dict[str, Any], force: bool) -> None:
    config = family("diffusers").config_of(model) if type(model).__module__.startswith("diffusers.") else None
    plan = scan(model)
    text = recipe_text(choose_recipe(plan, model), plan, model, {"kind": "reference", "weights": "fresh"})
    if config is None:
        text = text.replace("model: . ", f"model: {{source: '{reference}', arguments: {arguments}}} ", 1)
    if force and _is_dense_of_ours(folder):
        for entry in folder.iterdir():
            entry.unlink()
    with whole_folder(folder, force=force) as draft:
        if config is not None:
            write_json(draft / CONFIG_NAME, config)
            write_safetensors(separate_state(model), draft / _WEIGHTS_NAME)
        (draft / RECIPE_NAME).write_text(text, encoding="utf-8")
