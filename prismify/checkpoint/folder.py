"""prismify's own format: a folder with weights, the plan, and where everything came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from ..errors import SourceError
from ..families import FAMILIES, family
from ..generators import kept_generators
from ..graph import unwrap
from ..graph.program import program_module
from ..layers import own_operators
from ..layers.own import class_of
from ..page import HTML_NAME, document_of, page_text
from ..plan import Plan
from ..rewrite import replay
from ..scanning import build_report, report_markdown
from ..version import __version__
from .atomic import whole_folder
from .cards import Figures, edited_card, write_card
from .formats import (
    changed_buffers,
    export_module,
    fit_weights,
    lay_out,
    meta_names,
    put_buffers,
    read_program,
    read_state,
    sha256,
    strides_of,
    unique_state,
    write_program,
    write_safetensors,
)
from .formats.pickles import to_allow
from .handoff import choose_recipe, recipe_text, trained_recipe_text
from .manifest import (
    CONFIG_NAME,
    FORMAT_VERSION,
    HASHES_KEY,
    MANIFEST_NAME,
    PIPELINE_NAME,
    REPORT_NAME,
    listing,
    read_json,
    read_manifest,
    write_json,
)
from .origin import Source
from .references import parse_reference
from .shipped import folder_of
from .streaming import write_streamed
from .structure import (
    SKELETON_NAME,
    build_structure,
    check_structure,
    class_name,
    damaged_if_it_fails,
    describe,
    holds_graph,
    rebuild_from,
    write_structure,
)

WEIGHTS_NAME = "model.safetensors"
#: Buffers that no state dict holds, where they are not what the constructor makes.
BUFFERS_NAME = "buffers.safetensors"
#: A converted exported program, weights and all.
PROGRAM_NAME = "model.pt2"
#: Files whose content is checked against the manifest once everything else about them is right.
HASHED = (WEIGHTS_NAME, BUFFERS_NAME, PROGRAM_NAME, SKELETON_NAME)
#: In a manifest: operators of people's own that the plan names -> their classes, for the reader's message.
OPERATORS_KEY = "operators"
RECIPE_NAME, PAGE_NAME = "recipe.yaml", "report.md"


@kept_generators()
def save(
    model: nn.Module | ExportedProgram,
    folder: str | Path,
    *,
    force: bool = False,
    reference: str | None = None,
    arguments: dict[str, Any] | None = None,
    source: Source | None = None,
    latency: dict[str, Any] | None = None,
    beside: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    recipe: str | None = None,
    figures: Sequence[Figures] = (),
) -> None:
    """Write a converted model as a folder that `load` reads back bit for bit. No generator of random numbers moves.

    The folder holds `model.safetensors`, `prismify.json` (plan, origin, versions), `report.json`, `report.md`,
    `report.html`, a card (`README.md`; one that a person edited stays when the folder is replaced) and, where a recipe
    can train the model, `recipe.yaml`; a diffusers model's `config.json`; and for
    models that no config and no reference describes `skeleton.pt`, the modules without their weights. An exported
    program becomes `model.pt2`, weights and all, which runs without prismify; so does a `GraphModule` where torch can
    export it.

    Args:
        model: what `convert` returned.
        folder: the output; written whole or not at all.
        force: replace a folder that prismify wrote.
        reference, arguments: how to build the original again, such as "package.module:factory".
        source: where the model was loaded from, as the command line knows it.
        latency: what `prismify.bench.latency` measured, for the report.
        beside: further JSON files of the folder, by their names.
        recipe: what trained the model, as YAML, for the folder's `recipe.yaml`; None writes the one that fits it.
        figures: what was measured of it, for its card.

    Raises:
        OutputError: the folder exists, or cannot be written.
        SourceError: the model was not converted, or cannot be described.
    """
    model = unwrap(model) if isinstance(model, nn.Module) else model
    folder = Path(folder)
    plan: Plan | None = getattr(model, "prismify_plan", None)
    if plan is None:
        raise SourceError(f"this {type(model).__name__} was not converted by prismify: call prismify.convert first")
    if source is None:
        source = _source_of(model, reference, arguments)
    if isinstance(model, nn.Module) and source.rebuild is None and holds_graph(model):
        model = _exported(model, plan)
    with whole_folder(folder, force=force) as draft:
        for name, content in beside.items():
            write_json(draft / name, content)
        write_model(model, plan, source, draft, latency, recipe, card=edited_card(folder), figures=figures)


def write_model(
    model: nn.Module | ExportedProgram,
    plan: Plan,
    source: Source,
    draft: Path,
    latency: dict[str, Any] | None = None,
    recipe: str | None = None,
    *,
    card: str | None = None,
    figures: Sequence[Figures] = (),
) -> None:
    """Fill a folder with everything about one converted model.

    Args:
        card: what a person made of its card, which stays.
        figures: for the card.
    """
    if isinstance(model, ExportedProgram):
        rebuild: dict[str, Any] = {"kind": "exported"}
        write_program(model, draft / PROGRAM_NAME)
        module: nn.Module = program_module(model)
    else:
        rebuild, module = _write_module(model, plan, source, draft), model
    origin = source.described()
    report = build_report(plan, source.label, origin, latency)
    trained_by = recipe
    if recipe is not None:
        recipe = trained_recipe_text(recipe, plan, module, _flags(rebuild, draft))
    elif (handoff := choose_recipe(plan, module if isinstance(model, nn.Module) else model, origin)).recipe is not None:
        recipe = recipe_text(handoff, plan, module, origin, _flags(rebuild, draft))
    else:
        report["notes"].append(f"No recipe is written: {handoff.because}.")
    write_report(report, draft)
    if recipe is not None:
        (draft / RECIPE_NAME).write_text(recipe, encoding="utf-8")
    write_card(draft, report, origin, kept=card, figures=figures, recipe=trained_by)
    manifest = {
        "format_version": FORMAT_VERSION,
        "model": rebuild,
        "source": origin,
        "versions": _versions(model),
        OPERATORS_KEY: {name: class_of(own_operators()[name]) for name in _own_names(plan)},
        **listing(draft),
        HASHES_KEY: {name: sha256(draft / name) for name in HASHED if (draft / name).is_file()},
        "strides": {} if isinstance(model, ExportedProgram) else strides_of(model),
        "plan": plan.to_dict(),
    }
    write_json(draft / MANIFEST_NAME, manifest)


def write_report(report: dict[str, Any], draft: Path) -> None:
    """A report as data, as Markdown and as a page for a browser."""
    write_json(draft / REPORT_NAME, report)
    (draft / PAGE_NAME).write_text(report_markdown(report), encoding="utf-8", errors="backslashreplace")
    (draft / HTML_NAME).write_text(page_text(document_of(report)), encoding="utf-8")


def _write_module(model: nn.Module, plan: Plan, source: Source, draft: Path) -> dict[str, Any]:
    """The structure, the weights and the buffers of a module; returns how to build it again."""
    rebuild, config = (source.rebuild, source.config) if source.rebuild is not None else describe(model)
    rebuild = write_structure(model, rebuild, draft)
    if config is not None:
        write_json(draft / CONFIG_NAME, config)
    if rebuild["kind"] != "skeleton":
        fresh = build_structure(draft, rebuild, plan, trust_code=True)
        check_structure(model, fresh, str(rebuild.get("reference", CONFIG_NAME)))
        if buffers := changed_buffers(model, fresh):
            write_safetensors(buffers, draft / BUFFERS_NAME)
    if source.stored and any(parameter.is_meta for parameter in model.parameters()):
        write_streamed(model, source, draft / WEIGHTS_NAME)
    else:
        write_safetensors(unique_state(model), draft / WEIGHTS_NAME)
    return rebuild


def _flags(rebuild: dict[str, Any], folder: Path) -> list[str]:
    """What the command line must be told to open a folder."""
    if rebuild["kind"] == "skeleton":
        return [f"--allow {name}" for name in to_allow(folder / SKELETON_NAME)]
    runs_code = rebuild["kind"] == "reference" and parse_reference(rebuild["reference"]).runs_code
    return ["--trust-code"] if runs_code else []


@kept_generators()
@torch.inference_mode(False)
def load(
    folder: str | Path,
    *,
    revision: str | None = None,
    model: nn.Module | str | None = None,
    allow: Iterable[str] = (),
    trust_code: bool = False,
    device: torch.device | str | None = None,
) -> Any:
    """The converted model in a folder that `save` wrote, in evaluation mode; bit-identical. No generator moves.

    A trained model that comes with prismify has a name in the place of a folder, and so has one on a hub:
    "owner/name", which is trusted no more than any stranger's folder.

    A pipeline folder comes back as its diffusers pipeline with the converted parts in place, an exported program
    as an `ExportedProgram`: its `module()` runs.

    Args:
        revision: of a hub's repository: a branch, a tag or a commit.
        model: the original architecture, as a module (which is converted) or a reference, where the folder
            alone must not or cannot build it.
        allow: classes outside torch, torchvision, timm and diffusers that a skeleton may hold.
        trust_code: import the Python file or package that the folder names as its architecture.
        device: where to put the weights.

    Raises:
        SourceError: the folder is not one of prismify's, is damaged, or needs `trust_code` or `allow`; or the hub
            does not give it.
    """
    folder, allow = folder_of(folder, revision), tuple(allow)
    manifest = read_manifest(folder)
    if manifest.get("kind") == "pipeline":
        if model is not None:
            raise SourceError(f"{folder} is a pipeline: give model=... to load the folder of one of its parts")
        index = read_json(folder / PIPELINE_NAME)
        parts = {n: load(folder / n, allow=allow, trust_code=trust_code) for n in manifest["parts"]}
        pipeline = family("diffusers").load_pipeline(folder, index, parts, trust_code=trust_code)
        return pipeline if device is None else pipeline.to(device)
    _check_registered(folder, manifest)
    with damaged_if_it_fails(folder):
        plan = Plan.from_dict(manifest["plan"])
    if manifest["model"].get("kind") == "exported":
        if model is not None:
            raise SourceError(f"{folder} holds an exported program, which brings its own structure: drop model=...")
        program: ExportedProgram = read_program(folder / PROGRAM_NAME)
        program.prismify_plan = plan  # type: ignore[attr-defined]
        check_hashes(folder, manifest)
        return program if device is None else move_to_device_pass(program, device)
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
    check_hashes(folder, manifest)
    return built.to(device).eval() if device is not None else built.eval()


@torch.inference_mode(False)
def load_pipeline(folder: str | Path, *, trust_code: bool = False, **parts: Any) -> Any:
    """The pipeline of diffusers' own class in a folder, with converted parts in place, as `load` opens it.

    Args:
        parts: by name, what takes the place of the folder's: a module, or a folder of one, such as a run's `model`.

    Raises:
        SourceError: the folder is no pipeline that prismify converted, or has no such part; see `load`.
    """
    folder = folder_of(folder)
    if read_manifest(folder).get("kind") != "pipeline":
        raise SourceError(f"{folder} holds one model and no pipeline: open it with prismify.load")
    pipeline = load(folder, trust_code=trust_code)
    for name, part in parts.items():
        if name not in pipeline.components:
            raise SourceError(f"{folder} has no part {name!r}: it has {', '.join(sorted(pipeline.components))}")
        module = part if isinstance(part, nn.Module) else load(part, trust_code=trust_code)
        setattr(pipeline, name, module)
    return pipeline


def _own_names(plan: Plan) -> list[str]:
    return sorted({d.operator.type for d in plan.replaced if d.operator is not None and d.operator.is_own})


def _check_registered(folder: Path, manifest: dict[str, Any]) -> None:
    """See that the operators of people's own in a folder are known here.

    Raises:
        SourceError: one is not; nothing is imported because a folder names it.
    """
    needed = manifest.get(OPERATORS_KEY, {})
    for name, kind in needed.items() if isinstance(needed, dict) else ():
        if name not in own_operators():
            raise SourceError(
                f"{folder} holds the operator {name} ({kind}), which nothing has registered here: import the module "
                "that does (--import FILE.py at the command line)"
            )


def check_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    """See that the files are those that were written: one flipped bit makes another model.

    Raises:
        SourceError: one of them is not.
    """
    hashes = manifest.get(HASHES_KEY, {})  # folders from before this was noted have none
    if not isinstance(hashes, dict):
        raise SourceError(f"{folder / MANIFEST_NAME}: {HASHES_KEY!r} is not what prismify writes there: it is damaged")
    for name in [name for name in HASHED if name in hashes]:
        if sha256(folder / name) != hashes[name]:
            raise SourceError(
                f"{folder / name} is not what prismify wrote: its SHA-256 differs, so it is damaged or was changed "
                f"since. Remove {HASHES_KEY!r} from {MANIFEST_NAME} to take it as it is"
            )


def _exported(model: nn.Module, plan: Plan) -> ExportedProgram:
    """A converted module that holds a `GraphModule` as a program.

    Raises:
        SourceError: it has more entry points than `forward`, or torch cannot export it.
    """
    inputs, methods = getattr(model, "prismify_inputs", None), [row["method"] for row in plan.capture]
    try:
        if inputs is None or methods != ["forward"]:
            raise SourceError("a program has one entry point")
        program = export_module(model, inputs)
    except SourceError as error:
        raise SourceError(
            f"{type(model).__name__} holds a GraphModule, which is code and cannot be loaded safely, and cannot be "
            f"exported as data ({error}): give save a reference to a factory, "
            "such as reference='package.module:factory'"
        ) from error
    program.prismify_plan = plan  # type: ignore[attr-defined]
    return program


def _source_of(model: nn.Module | ExportedProgram, reference: str | None, arguments: dict[str, Any] | None) -> Source:
    """What can be said of a model that came as an object."""
    origin: dict[str, Any] = {"kind": "python object", "class": class_name(model)}
    if reference is None:
        return Source(type(model).__name__, origin, lambda empty: model)
    if isinstance(model, ExportedProgram):
        raise SourceError("an exported program is saved whole: drop reference=...")
    parsed = parse_reference(reference, arguments)
    origin |= {"reference": reference, "arguments": parsed.arguments}
    return Source(reference, origin, lambda empty: model, rebuild_from(parsed))


def _versions(model: nn.Module | ExportedProgram) -> dict[str, str]:
    root = type(model).__module__.split(".")[0]
    versions = {"prismify": __version__, "torch": torch.__version__}
    return {**versions, root: family(root).version()} if root in FAMILIES else versions
