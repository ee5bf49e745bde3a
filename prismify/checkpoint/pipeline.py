"""Diffusers pipelines: convert the parts that are models, copy the rest untouched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..plan import Plan
from ..report import build_report, join_reports, report_markdown
from .atomic import whole_folder
from .folder import write_model
from .manifest import FORMAT_VERSION, MANIFEST_NAME, REPORT_NAME, write_json
from .source import Pipeline


def save_pipeline(pipeline: Pipeline, converted: dict[str, nn.Module], folder: Path, *, force: bool = False) -> None:
    """Write a pipeline folder in which each converted part is a folder of prismify's.

    Args:
        converted: part name -> converted model; parts that are not among them are copied untouched.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    with whole_folder(folder, force=force) as draft:
        for entry in pipeline.folder.iterdir():
            if entry.name in converted:
                continue
            if entry.is_dir():
                shutil.copytree(entry, draft / entry.name)
            else:
                shutil.copyfile(entry, draft / entry.name)
        for name, model in converted.items():
            (draft / name).mkdir()
            plan: Plan = model.prismify_plan  # type: ignore[assignment]
            write_model(model, plan, pipeline.parts[name], draft / name)
        report = pipeline_report(pipeline, {n: m.prismify_plan for n, m in converted.items()})  # type: ignore[misc]
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": "pipeline",
            "parts": sorted(converted),
            "source": {"kind": "pipeline folder", "path": str(pipeline.folder.resolve())},
            "versions": {"prismify": __version__},
        }
        write_json(draft / MANIFEST_NAME, manifest)
        write_json(draft / REPORT_NAME, report)
        (draft / "report.md").write_text(report_markdown(report))


def pipeline_report(pipeline: Pipeline, plans: dict[str, Plan]) -> dict[str, Any]:
    """The report of a pipeline whose parts were scanned or converted with these plans."""
    reports = {name: build_report(plan, pipeline.parts[name].label) for name, plan in plans.items()}
    untouched = [*pipeline.others, *(n for n in pipeline.parts if n not in plans)]
    return join_reports(reports, pipeline.label, sorted(untouched))
