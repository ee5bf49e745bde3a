"""prismify's own format: a folder with weights, the plan, and where everything came from."""

from __future__ import annotations

import copy
import io
import shutil
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
from .empty import empty_parameters
from .manifest import CONFIG_NAME, FORMAT_VERSION, MANIFEST_NAME, REPORT_NAME, read_config, read_manifest, write_json
from .pickles import read_pickle
from .reference import Reference, parse_reference
from .source import Source, rebuild_from
from .weights import fit_weights, meta_names, read_weights, unique_state, write_safetensors

WEIGHTS_NAME = "model.safetensors"
SKELETON_NAME = "skeleton.pt"


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    force: bool = False,
    reference: str | None = None,
    arguments: dict[str, Any] | None = None,
    source: Source | None = None,
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
        write_model(model, plan, source, draft)


def write_model(model: nn.Module, plan: Plan, source: Source, draft: Path) -> None:
    """Fill an empty folder with everything about one converted model."""
    rebuild = source.rebuild or {"kind": "skeleton", "class": _qualified(model)}
    if rebuild["kind"] == "reference":
        rebuild = _bring_file(rebuild, draft)
    if rebuild["kind"] == "skeleton":
        _write_skeleton(model, draft / SKELETON_NAME)
    if source.config is not None:
        write_json(draft / CONFIG_NAME, source.config)
    report = build_report(plan, source.label, source.origin)
    manifest = {
        "format_version": FORMAT_VERSION,
        "model": rebuild,
        "source": source.origin,
        "versions": _versions(model),
        "plan": plan.to_dict(),
    }
    write_safetensors(unique_state(model), draft / WEIGHTS_NAME)
    write_json(draft / MANIFEST_NAME, manifest)
    write_json(draft / REPORT_NAME, report)
    (draft / "report.md").write_text(report_markdown(report))
    (draft / "recipe.yaml").write_text(recipe_text(plan, model))


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
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.get("kind") == "pipeline":
        parts = {n: load(folder / n, allow=allow, trust_code=trust_code, device=device) for n in manifest["parts"]}
        return family("diffusers").load_pipeline(folder, parts)
    plan = Plan.from_dict(manifest["plan"])
    if model is not None:
        built = _given(model)
        replay(built, plan)
    else:
        built = _rebuild(folder, manifest["model"], tuple(allow), trust_code)
        if manifest["model"]["kind"] == "skeleton":
            built.prismify_plan = plan  # type: ignore[assignment]
        else:
            replay(built, plan)
    weights = folder / WEIGHTS_NAME
    state = read_weights(weights)
    assert not isinstance(state, nn.Module)
    fit_weights(built, state, str(weights))
    if left := meta_names(built):
        raise SourceError(f"{folder}: {left[0]} has no value in {WEIGHTS_NAME}; load it with model=...")
    return built.to(device).eval() if device is not None else built.eval()


def _rebuild(folder: Path, how: dict[str, Any], allow: tuple[str, ...], trust_code: bool) -> nn.Module:
    kind = how.get("kind")
    if kind == "diffusers":
        config = read_config(folder)
        if config is None:
            raise SourceError(f"{folder} has lost its {CONFIG_NAME}")
        with empty_parameters():
            return family("diffusers").from_config(config)  # type: ignore[no-any-return]
    if kind == "skeleton":
        skeleton = read_pickle(folder / SKELETON_NAME, allow=allow)
        if not isinstance(skeleton, nn.Module):
            raise SourceError(f"{folder / SKELETON_NAME} holds no module")
        return skeleton
    if kind != "reference":
        raise SourceError(f"{folder / MANIFEST_NAME}: cannot rebuild a model of kind {kind!r}")
    reference = parse_reference(str(how.get("reference")), how.get("arguments"))
    if reference.runs_code and not trust_code:
        raise SourceError(
            f"{folder} is built by {reference}, which runs Python code: "
            "load it with trust_code=True (--trust-code), or give the model yourself with model=..."
        )
    if reference.file is not None:
        reference = Reference(str(folder / reference.file.name), reference.target, reference.arguments)
    return reference.build(empty=True)


def _given(model: nn.Module | str) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    return parse_reference(model).build(empty=True)


def _source_of(model: nn.Module, reference: str | None, arguments: dict[str, Any] | None) -> Source:
    """What can be said of a model that came as an object."""
    name = _qualified(model)
    origin: dict[str, Any] = {"kind": "python object", "class": name}
    if reference is not None:
        parsed = parse_reference(reference, arguments)
        return Source(reference, origin | {"reference": reference}, lambda empty: model, rebuild_from(parsed))
    config = family("diffusers").config_of(model) if type(model).__module__.startswith("diffusers.") else None
    rebuild = {"kind": "diffusers"} if config is not None else None
    return Source(type(model).__name__, origin, lambda empty: model, rebuild, config=config)


def _bring_file(rebuild: dict[str, Any], draft: Path) -> dict[str, Any]:
    """Copy a `file.py` beside the weights, so that the folder can be moved."""
    reference = parse_reference(rebuild["reference"], rebuild["arguments"])
    if reference.file is None:
        return rebuild
    shutil.copyfile(reference.file, draft / reference.file.name)
    return {**rebuild, "reference": f"{reference.file.name}:{reference.target}"}


def _write_skeleton(model: nn.Module, path: Path) -> None:
    """Pickle the modules with their parameters and saved buffers on `meta`."""
    saved = {id(v) for v in model.state_dict(keep_vars=True).values()}
    memo: dict[int, Any] = {id(model.prismify_plan): None}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        if id(buffer) in saved:
            memo[id(buffer)] = buffer.detach().to("meta")
    content = io.BytesIO()
    try:
        torch.save(copy.deepcopy(model, memo), content)
    except Exception as error:
        raise SourceError(
            f"{type(model).__name__} cannot be described by pickling it ({' '.join(str(error).split())[:200]}): "
            "give save a reference to its factory, such as reference='package.module:factory'"
        ) from error
    path.write_bytes(content.getvalue())


def _versions(model: nn.Module) -> dict[str, str]:
    root = type(model).__module__.split(".")[0]
    versions = {"prismify": __version__, "torch": torch.__version__}
    return {**versions, root: family(root).version()} if root in FAMILIES else versions


def _qualified(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
