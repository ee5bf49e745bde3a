"""prismify's own format: a folder with weights, the plan, and where everything came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import SourceError
from ..families import FAMILIES, family
from ..graph import unwrap
from ..handoff import recipe_text
from ..plan import Plan
from ..report import build_report, report_markdown
from ..rewrite import replay
from .atomic import whole_folder
from .manifest import (
    CONFIG_NAME,
    FILES_KEY,
    FORMAT_VERSION,
    MANIFEST_NAME,
    PIPELINE_NAME,
    REPORT_NAME,
    read_json,
    read_manifest,
    write_json,
)
from .origin import Source
from .reference import parse_reference
from .structure import (
    build_structure,
    check_structure,
    class_name,
    damaged_if_it_fails,
    describe,
    rebuild_from,
    write_structure,
)
from .tensors import changed_buffers, fit_weights, lay_out, meta_names, put_buffers, strides_of, unique_state
from .weights import read_state, write_safetensors

WEIGHTS_NAME = "model.safetensors"
#: Buffers that no state dict holds, where they are not what the constructor makes.
BUFFERS_NAME = "buffers.safetensors"
RECIPE_NAME, PAGE_NAME = "recipe.yaml", "report.md"


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    force: bool = False,
    reference: str | None = None,
    arguments: dict[str, Any] | None = None,
    source: Source | None = None,
    latency: dict[str, Any] | None = None,
) -> None:
    """Write a converted model as a folder that `load` reads back bit for bit.

    The folder holds `model.safetensors`, `prismify.json` (plan, origin, versions), `report.json`, `report.md`
    and `recipe.yaml`; a diffusers model's `config.json`; and for models that no config and no reference
    describes `skeleton.pt`, the modules without their weights.

    Args:
        model: what `convert` returned.
        folder: the output; written whole or not at all.
        force: replace a folder that prismify wrote.
        reference, arguments: how to build the original again, such as "package.module:factory".
        source: where the model was loaded from, as the command line knows it.
        latency: what `prismify.bench.latency` measured, for the report.

    Raises:
        OutputError: the folder exists, or cannot be written.
        SourceError: the model was not converted, or cannot be described.
    """
    model = unwrap(model)
    folder = Path(folder)
    plan: Plan | None = getattr(model, "prismify_plan", None)
    if plan is None:
        raise SourceError(f"this {type(model).__name__} was not converted by prismify: call prismify.convert first")
    if source is None:
        source = _source_of(model, reference, arguments)
    with whole_folder(folder, force=force) as draft:
        write_model(model, plan, source, draft, latency)


def write_model(
    model: nn.Module, plan: Plan, source: Source, draft: Path, latency: dict[str, Any] | None = None
) -> None:
    """Fill an empty folder with everything about one converted model."""
    rebuild, config = (source.rebuild, source.config) if source.rebuild is not None else describe(model)
    rebuild = write_structure(model, rebuild, draft)
    if config is not None:
        write_json(draft / CONFIG_NAME, config)
    if rebuild["kind"] != "skeleton":
        fresh = build_structure(draft, rebuild, plan, trust_code=True)
        check_structure(model, fresh, str(rebuild.get("reference", CONFIG_NAME)))
        if buffers := changed_buffers(model, fresh):
            write_safetensors(buffers, draft / BUFFERS_NAME)
    origin = source.described()
    report = build_report(plan, source.label, origin, latency)
    write_safetensors(unique_state(model), draft / WEIGHTS_NAME)
    write_json(draft / REPORT_NAME, report)
    (draft / PAGE_NAME).write_text(report_markdown(report), encoding="utf-8")
    (draft / RECIPE_NAME).write_text(recipe_text(plan, model), encoding="utf-8")
    manifest = {
        "format_version": FORMAT_VERSION,
        "model": rebuild,
        "source": origin,
        "versions": _versions(model),
        FILES_KEY: sorted(path.name for path in draft.iterdir()),
        "strides": strides_of(model),
        "plan": plan.to_dict(),
    }
    write_json(draft / MANIFEST_NAME, manifest)


def load(
    folder: str | Path,
    *,
    model: nn.Module | str | None = None,
    allow: Iterable[str] = (),
    trust_code: bool = False,
    device: torch.device | str | None = None,
) -> Any:
    """The converted model in a folder that `save` wrote, in evaluation mode; bit-identical.

    A pipeline folder comes back as its diffusers pipeline with the converted parts in place.

    Args:
        model: the original architecture, as a module (which is converted) or a reference, where the folder
            alone must not or cannot build it.
        allow: classes outside torch, torchvision, timm and diffusers that a skeleton may hold.
        trust_code: import the Python file or package that the folder names as its architecture.
        device: where to put the weights.

    Raises:
        SourceError: the folder is not one of prismify's, is damaged, or needs `trust_code` or `allow`.
    """
    folder, allow = Path(folder), tuple(allow)
    manifest = read_manifest(folder)
    if manifest.get("kind") == "pipeline":
        if model is not None:
            raise SourceError(f"{folder} is a pipeline: give model=... to load the folder of one of its parts")
        index = read_json(folder / PIPELINE_NAME)
        parts = {n: load(folder / n, allow=allow, trust_code=trust_code) for n in manifest["parts"]}
        pipeline = family("diffusers").load_pipeline(folder, index, parts, trust_code=trust_code)
        return pipeline if device is None else pipeline.to(device)
    with damaged_if_it_fails(folder):
        plan = Plan.from_dict(manifest["plan"])
    if model is not None:
        built = unwrap(model) if isinstance(model, nn.Module) else parse_reference(model).build(empty=True)
        replay(built, plan)
    else:
        built = build_structure(folder, manifest["model"], plan, allow=allow, trust_code=trust_code)
    weights, buffers = folder / WEIGHTS_NAME, folder / BUFFERS_NAME
    state = lay_out(read_state(weights), manifest.get("strides", {}), str(folder / MANIFEST_NAME))
    fit_weights(built, state, str(weights))
    if buffers.is_file():
        put_buffers(built, read_state(buffers), str(buffers))
    if left := meta_names(built):
        raise SourceError(f"{folder}: {left[0]} has no value in {WEIGHTS_NAME}; load it with model=...")
    return built.to(device).eval() if device is not None else built.eval()


def _source_of(model: nn.Module, reference: str | None, arguments: dict[str, Any] | None) -> Source:
    """What can be said of a model that came as an object."""
    origin: dict[str, Any] = {"kind": "python object", "class": class_name(model)}
    if reference is None:
        return Source(type(model).__name__, origin, lambda empty: model)
    parsed = parse_reference(reference, arguments)
    origin |= {"reference": reference, "arguments": parsed.arguments}
    return Source(reference, origin, lambda empty: model, rebuild_from(parsed))


def _versions(model: nn.Module) -> dict[str, str]:
    root = type(model).__module__.split(".")[0]
    versions = {"prismify": __version__, "torch": torch.__version__}
    return {**versions, root: family(root).version()} if root in FAMILIES else versions
