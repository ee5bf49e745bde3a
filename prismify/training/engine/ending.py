"""The end of a run: its models, its report, and a picture of its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from torch import nn

from ...checkpoint.atomic import whole_file
from ...checkpoint.cards import Figures
from ...checkpoint.manifest import REPORT_NAME, read_json, read_report
from ...errors import OutputError, PrismifyError
from ...page import HTML_NAME, document_of, page_text
from ..models import save_model
from ..recipe import going_on, read_recorded, recipe_yaml
from .journal import read_records
from .run import Run
from .state import read_state, states
from .telling import LOSSES, facts_of, run_section, thinned


def end_run(run: Run, averaged: nn.Module, beside: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Write `model`, the averaged weights as they are now, and `best`, those that measured best; then the report.

    Args:
        beside: further JSON files of both, by their names.
    """
    if run.leads:
        write = partial(
            save_model,
            source=run.recipe.model,
            trust=run.trust,
            beside=beside,
            recipe=recipe_yaml(going_on(run.recipe)),
        )
        run.written.note(*(run.folder / name for name in ("model", "report.md", HTML_NAME, "curves.png")))

        def at(step: int) -> dict[str, Any]:
            return {"trained": _trained(run, step), "figures": run_figures(run.folder, step)}

        write(averaged, run.folder / "model", **at(run.step))
        if run.best is not None:
            run.written.note(run.folder / "best")
        if run.best is not None and run.best[1] != run.step and run.best[1] in states(run.folder / "state"):
            state = read_state(run.folder / "state", run.best[1])
            averaged.load_state_dict(state["parts"]["average"])
            write(averaged, run.folder / "best", **at(run.best[1]))
        elif run.best is not None:
            write(averaged, run.folder / "best", **at(run.best[1]))
        write_report(run.folder)
        best = "best, " if run.best is not None else ""
        run.say(f"done: {best}model (latest), report.md and report.html are in {run.folder}")
        run.say(f"next: {run.judging}")
    run.processes.wait()


def _trained(run: Run, step: int) -> str:
    return f"Trained with the recipe {run.recipe.recipe}: {step:,} steps of {run.shares.batch_size} images."


def run_figures(folder: Path, step: int) -> tuple[Figures, ...]:
    """What a run's records say of its model at a step; () where nothing was measured then.

    Args:
        folder: the run's.
    """
    rows = [r for r in read_records(folder) if r.get("kind") == "validation" and r["step"] == step]
    if not rows:
        return ()
    try:
        data = read_recorded(folder / "recipe.yaml").data
    except (PrismifyError, OSError):
        return ()
    numbers = {name: value for name, value in rows[-1].items() if isinstance(value, (int, float)) and name != "step"}
    if data.validation_path is not None or data.validation_select is not None:
        path = data.validation_path or str(data.path)
        on = f"at most {data.validation:,} other images of {PurePath(path).name}, by its run"
    else:
        on = f"{data.validation:,} images held out of {PurePath(str(data.path)).name}, by its run"
    return (Figures([f"step {step:,}"], [(name, [f"{value:.4g}"]) for name, value in numbers.items()], on),)


def write_report(folder: Path) -> None:
    """`report.md`, `report.html` and `curves.png` of a run's folder, from its records and its model's report.

    Raises:
        OutputError: the folder cannot be written.
    """
    records = read_records(folder)
    drawn = draw_curves(records, folder / "curves.png")
    facts = read_json(folder / "run.json")
    with whole_file(folder / "report.md") as draft:
        draft.write_text(report_text(folder, facts, records, drawn), encoding="utf-8", errors="backslashreplace")
    with whole_file(folder / HTML_NAME) as draft:
        converted = (folder / "model" / REPORT_NAME).is_file()
        report = read_report(folder / "model") if converted else None
        draft.write_text(page_text(document_of(report, runs=[run_section(folder)])), encoding="utf-8")


def report_text(folder: Path, facts: dict[str, Any], records: list[dict[str, Any]], drawn: bool) -> str:
    """The page about a run."""
    train = [r for r in records if r["kind"] == "train"]
    measured = [r for r in records if r["kind"] == "validation"]
    lines = [f"# {folder.name}", ""]
    rows = facts_of(facts, records, quote="`")
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    if measured:
        keys = [k for k in measured[-1] if k not in ("step", "kind")]
        lines += ["## On held-out images", "", f"| step | {' | '.join(keys)} |", f"|---:|{'---:|' * len(keys)}"]
        lines += [f"| {r['step']:,} | " + " | ".join(_cell(r, k) for k in keys) + " |" for r in thinned(measured, 20)]
        picture = f"images/step-{measured[-1]['step']:08d}.png"
        if (folder / picture).is_file():
            lines += ["", f"![{facts.get('pictures', 'Originals above reconstructions')}]({picture})"]
        lines += [""]
    if drawn:
        lines += ["## Curves", "", "![Losses and measurements](curves.png)", ""]
    if train:
        last = {k: v for k, v in train[-1].items() if k not in ("step", "kind")}
        lines += ["## The last record", "", "```json", json.dumps(last, indent=1), "```", ""]
    return "\n".join(lines)


def _cell(record: dict[str, Any], key: str) -> str:
    if key not in record:
        return ""
    return "not a number" if record[key] is None else f"{record[key]:.4g}"


def draw_curves(records: list[dict[str, Any]], path: Path) -> bool:
    """A picture of the losses and measurements over the steps; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    train = [r for r in records if r["kind"] == "train"]
    measured = [r for r in records if r["kind"] == "validation"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in LOSSES:
        rows = [(r["step"], r[name]) for r in train if r.get(name) is not None]
        if rows:
            left.plot(*zip(*rows, strict=True), label=name, linewidth=1)
    left.set(xlabel="step", title="losses")
    left.set_yscale("symlog", linthresh=1e-3)
    for name in [k for k in (measured[-1] if measured else {}) if k not in ("step", "kind")]:
        rows = [(r["step"], r[name]) for r in measured if r.get(name) is not None]
        right.plot(*zip(*rows, strict=True), label=name, marker=".")
    right.set(xlabel="step", title="held-out images")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    with whole_file(path) as draft:
        try:
            figure.savefig(draft, format="png", dpi=120)
        except (ValueError, RuntimeError) as error:
            raise OutputError(f"{path} cannot be drawn: {error}") from error
    return True
