"""diffusers: `diffusers:Class`, model folders (`config.json`) and pipeline folders (`model_index.json`)."""

from __future__ import annotations

import importlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import diffusers
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import Tensor, nn

from ..errors import SourceError
from .names import check_part_name, unknown_name

CONFIG_NAME = "config.json"
PIPELINE_NAME = "model_index.json"
#: Where a model folder's weights may lie, in the order of preference; `*` is a variant such as fp16.
_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.*.safetensors",
    "diffusion_pytorch_model.safetensors.index.*.json",
    "diffusion_pytorch_model.*.bin",
    "diffusion_pytorch_model.bin.index.*.json",
    "model.*.safetensors",
    "model.safetensors.index.*.json",
)
_SHARD = re.compile(r"-\d+-of-\d+\.")
#: Libraries that a pipeline's parts may come from; any other name would be imported as Python code.
_LIBRARIES = {"diffusers", "transformers"}


def weights_file(folder: Path, variant: str | None = None) -> Path | None:
    """The weights of a model folder, or the index of their shards; None where it holds only a config.

    Args:
        variant: of the weights, such as fp16; by default those without one, or else whichever there are.

    Raises:
        SourceError: there are weights, but not of that variant, or under no name that diffusers gives.
    """
    if variant is not None:
        wanted = [pattern.replace("*", variant) for pattern in _WEIGHTS if "*" in pattern]
        if found := [folder / name for name in wanted if (folder / name).is_file()]:
            return found[0]
        held = sorted(
            p.name for p in folder.iterdir() if not _SHARD.search(p.name) and p.suffix in (".safetensors", ".bin")
        )
        raise SourceError(f"{folder} has no weights of variant {variant!r}: it holds {', '.join(held) or 'none'}")
    for pattern in _WEIGHTS:
        found = sorted(p for p in folder.glob(pattern) if p.is_file() and not _SHARD.search(p.name))
        if found:
            return found[0]
    if strange := sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".ckpt")):
        raise SourceError(f"{folder} holds {strange[0]}, which is no name that diffusers gives a model's weights")
    return None


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
        SourceError: the config names no class, or one that diffusers lacks, or does not fit it.
    """
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise SourceError("config.json names no _class_name: it is not a diffusers model's")
    made = cast(Any, model_class(name))
    try:
        model: nn.Module = made.from_config(config)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise SourceError(f"config.json does not make a {name}: {type(error).__name__}: {text}") from error
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


def original_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The state dict of an original release (CompVis, Stability, Black Forest Labs) under diffusers' names.

    None where diffusers has no table for the model's class, or the table fits none of the names.
    """
    kinds = [kind.__name__ for kind in type(model).__mro__]
    entry: dict[str, Any] = next(
        (SINGLE_FILE_LOADABLE_CLASSES[k] for k in kinds if k in SINGLE_FILE_LOADABLE_CLASSES), {}
    )
    if "checkpoint_mapping_fn" not in entry:
        return None
    config = dict(cast(Any, model).config)
    try:
        found: dict[str, Tensor] = entry["checkpoint_mapping_fn"](config=config, checkpoint=dict(state))
    except Exception:
        return None
    return {name: value for name, value in found.items() if isinstance(value, Tensor)} or None


def freeze_configs(model: nn.Module) -> None:
    """Give the modules of an unpickled model back their `FrozenDict` configs, read as plain dictionaries."""
    for module in model.modules():
        config = vars(module).get("_internal_dict")
        if type(config) is OrderedDict:
            module._internal_dict = FrozenDict(config)


def register_outputs(names: Iterable[str]) -> None:
    """Import the model files that define these output classes: only then can torch read programs that return them."""
    for name in names:
        if re.fullmatch(r"diffusers\.models\.[\w.]+", name):
            importlib.import_module(name.rpartition(".")[0])


def pipeline_parts(folder: Path, index: dict[str, Any]) -> list[str]:
    """The components that are diffusers models.

    Raises:
        SourceError: a component's name leads out of the folder.
    """
    parts = []
    for name, entry in index.items():
        if not isinstance(entry, list) or len(entry) != 2:
            continue
        check_part_name(name, folder / PIPELINE_NAME)
        if entry[0] == "diffusers" and (folder / name / CONFIG_NAME).is_file():
            found = getattr(diffusers, str(entry[1]), None) if str(entry[1]) in dir(diffusers) else None
            if isinstance(found, type) and issubclass(found, ModelMixin):
                parts.append(name)
    return parts


def load_pipeline(folder: Path, index: dict[str, Any], parts: dict[str, nn.Module], *, trust_code: bool) -> Any:
    """The pipeline in `folder` with some of its components given; the others take the dtype of those.

    Raises:
        SourceError: a component that was not converted cannot be loaded, or is Python code that is not trusted.
    """
    if not trust_code:
        _check_libraries(folder, index)
    options: dict[str, Any] = {"variant": "fp16" if any(folder.glob("*/*.fp16.*")) else None}
    if trust_code:
        options["trust_remote_code"] = True
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, **options, **parts)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise SourceError(f"{folder}: the pipeline around the converted parts cannot be loaded: {text}") from error
    dtypes = {p.dtype for part in parts.values() for p in part.parameters() if p.is_floating_point()}
    for name, component in pipeline.components.items():
        if len(dtypes) == 1 and name not in parts and isinstance(component, nn.Module):
            component.to(next(iter(dtypes)))
    return pipeline


def _check_libraries(folder: Path, index: dict[str, Any]) -> None:
    """See that an index names only classes of known libraries: diffusers imports whatever else it finds there."""
    name = index.get("_class_name")
    code = None if isinstance(name, str) and name in dir(diffusers) else f"_class_name {name!r}"
    for part, entry in index.items():
        library = entry[0] if isinstance(entry, list) and entry else None
        known = library is None or library in _LIBRARIES or library in dir(diffusers.pipelines)
        if not known or (isinstance(library, str) and (folder / part / f"{library}.py").exists()):
            code = f"{part} of {library!r}"
        if isinstance(entry, list) and (folder / part / PIPELINE_NAME).exists():
            code = f"{part}, a pipeline within it with an index of its own"
    if code is not None:
        raise SourceError(
            f"{folder / PIPELINE_NAME} names {code}, which runs Python code: load it with trust_code=True "
            "(--trust-code)"
        )


def version() -> str:
    """The installed version."""
    return str(diffusers.__version__)
