"""diffusers: `diffusers:Class`, model folders (`config.json`) and pipeline folders (`model_index.json`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import diffusers
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from torch import Tensor, nn

from ..errors import SourceError
from .names import unknown_name

CONFIG_NAME = "config.json"
PIPELINE_NAME = "model_index.json"
#: Where a model folder's weights may lie, in the order of preference.
WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)


def model_class(name: str) -> type[nn.Module]:
    """The diffusers model class of that name.

    Raises:
        SourceError: there is none, or it is not a model.
    """
    found = getattr(diffusers, name, None) if name in dir(diffusers) else None
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        models = [n for n in dir(diffusers) if "Autoencoder" in n or "Model" in n or "UNet" in n or "VQ" in n]
        raise SourceError(unknown_name(name, "diffusers", models))
    return cast("type[nn.Module]", found)


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A model with fresh weights from its config fields."""
    return model_class(name)(**arguments)


def from_config(config: dict[str, Any]) -> nn.Module:
    """A model with fresh weights from the content of a `config.json`.

    Raises:
        SourceError: the config names no class, or one that diffusers lacks.
    """
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise SourceError("config.json names no _class_name: it is not a diffusers model's")
    model: nn.Module = cast(Any, model_class(name)).from_config(config)
    return model


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """What `config.json` holds for one of diffusers' own models; None for any other module."""
    if not isinstance(model, ConfigMixin) or getattr(diffusers, type(model).__name__, None) is not type(model):
        return None
    return cast("dict[str, Any]", json.loads(model.to_json_string()))


def rename_old_keys(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring the key names of older diffusers releases up to date, as `from_pretrained` does."""
    fix = getattr(model, "_fix_state_dict_keys_on_load", None)
    if callable(fix):
        fix(state)
    return state


def pipeline_parts(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    """Component -> class name, for every component that is a diffusers model."""
    parts = {}
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == "diffusers" and (folder / name).is_dir():
            found = getattr(diffusers, str(entry[1]), None) if str(entry[1]) in dir(diffusers) else None
            if isinstance(found, type) and issubclass(found, ModelMixin) and (folder / name / CONFIG_NAME).is_file():
                parts[name] = str(entry[1])
    return parts


def load_pipeline(folder: Path, parts: dict[str, nn.Module]) -> Any:
    """The pipeline in `folder` with some of its components given.

    Raises:
        SourceError: a component that was not converted cannot be loaded.
    """
    try:
        return DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, **parts)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise SourceError(f"{folder}: the pipeline around the converted parts cannot be loaded: {text}") from error


def version() -> str:
    """The installed version."""
    return str(diffusers.__version__)
