"""Diffusers pipelines: convert the parts that are models, copy the rest untouched."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import OutputError
from ..generators import kept_generators
from ..page import HTML_NAME
from ..plan import Plan
from ..scanning import build_report, join_reports
from ..version import __version__
from .atomic import check_output, whole_folder
from .cards import CARD_NAME, edited_card, write_card
from .folder import PAGE_NAME, write_model, write_report
from .manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    PIPELINE_NAME,
    REPORT_NAME,
    listing,
    read_json,
    read_report,
    write_json,
)
from .origin import Pipeline


@kept_generators()
def save_pipeline(
    pipeline: Pipeline,
    converted: dict[str, nn.Module],
    folder: Path,
    *,
    force: bool = False,
    latency: dict[str, dict[str, Any] | None] | None = None,
) -> None:
    """Write a pipeline folder in which each converted part is a folder of prismify's.

    Args:
        converted: part name -> converted model; parts that are not among them are copied untouched.
        latency: what `prismify.bench.latency` measured of each part, for the reports.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    check_output(folder, force=force, source=pipeline.folder)
    if pipeline.folder.resolve() in folder.resolve().parents:
        raise OutputError(f"{folder} is inside the pipeline that is copied; choose another output")
    latency = latency or {}
    with whole_folder(folder, force=force) as draft:
        _copy_others(pipeline.folder, draft, converted)
        for name, model in converted.items():
            (draft / name).mkdir()
            plan: Plan = model.prismify_plan  # type: ignore[assignment]
            write_model(model, plan, pipeline.parts[name], draft / name, latency.get(name))
        plans: dict[str, Plan] = {n: m.prismify_plan for n, m in converted.items()}  # type: ignore[misc]
        report = pipeline_report(pipeline, plans, latency)
        for name in converted:  # which says whether a recipe was written
            report["parts"][name]["notes"] = read_report(draft / name)["notes"]
        write_report(report, draft)
        origin = {"kind": "pipeline folder", "path": str(pipeline.folder.resolve())}
        index = read_json(pipeline.folder / PIPELINE_NAME)
        write_card(draft, report, origin, kept=edited_card(folder), class_name=str(index.get("_class_name", "")))
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": "pipeline",
            "parts": sorted(name for name in pipeline.parts if (draft / name / MANIFEST_NAME).is_file()),
            "source": origin,
            "versions": {"prismify": __version__},
            **listing(draft),
        }
        write_json(draft / MANIFEST_NAME, manifest)


def pipeline_report(
    pipeline: Pipeline, plans: dict[str, Plan], latency: dict[str, dict[str, Any] | None] | None = None
) -> dict[str, Any]:
    """The report of a pipeline whose parts were scanned or converted with these plans.

    Parts that an earlier conversion changed and this one did not keep their own report.
    """
    measured = latency or {}
    reports = {
        name: build_report(plan, pipeline.parts[name].label, latency=measured.get(name)) for name, plan in plans.items()
    }
    for name in pipeline.parts:
        if name not in plans and (pipeline.folder / name / MANIFEST_NAME).is_file():
            reports[name] = read_report(pipeline.folder / name)
    untouched = [*pipeline.others, *(name for name in pipeline.parts if name not in reports)]
    return join_reports(reports, pipeline.label, sorted(untouched))


def _copy_others(source: Path, draft: Path, converted: Collection[str]) -> None:
    for entry in source.iterdir():
        if entry.name in {*converted, MANIFEST_NAME, REPORT_NAME, PAGE_NAME, HTML_NAME, CARD_NAME}:
            continue
        if entry.name in _leading_up(str(source), [entry.name]):
            continue
        if not entry.is_dir():
            shutil.copyfile(entry, draft / entry.name)
        elif not entry.name.startswith("."):  # .git and .cache are no part of the pipeline
            shutil.copytree(entry, draft / entry.name, ignore=_leading_up)


def _leading_up(folder: str, names: list[str]) -> set[str]:
    """Links to a folder that they lie in themselves: following them would not end."""
    here = Path(folder).resolve()
    links = (name for name in names if Path(folder, name).is_symlink())
    return {name for name in links if Path(folder, name).resolve() in (here, *here.parents)}
