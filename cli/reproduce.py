"""`prismify reproduce table3`: a table of the paper beside what is counted or measured here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .following import next_step, typed
from .judged import FeaturesOption, LpipsOption, opened_judges
from .terminal import one_line_errors, steps
from .train import SetOption, live_view
from .usage import misused

if TYPE_CHECKING:
    from ..paper import Table
    from ..paper.points import Setting


class What(StrEnum):
    """What can be reproduced."""

    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    sinddm = "sinddm"
    ldm = "ldm"
    figure1 = "figure1"


class Size(StrEnum):
    """How much of a machine is spent on a point."""

    laptop = "laptop"
    gpu = "gpu"
    paper = "paper"


_TRAINED = "table4 and figure1, which train"
_IMAGES = {"metavar": "IMAGES", "show_default": False, "rich_help_panel": _TRAINED}


@one_line_errors
def reproduce(
    call: typer.Context,
    what: Annotated[What, typer.Argument(help="Which of the paper's tables.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write NAME.md, NAME.json and what belongs to it.", show_default=False
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Images to train on.", **_IMAGES)] = None,
    test: Annotated[str | None, typer.Option("--test", help="And those to measure on.", **_IMAGES)] = None,
    budget: Annotated[
        Size,
        typer.Option(
            help="laptop: C = 64, 10 minutes a point; gpu: C = 256, 6; paper: C = 256, the paper's settings.",
            rich_help_panel=_TRAINED,
        ),
    ] = Size.laptop,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="M", min=0.01, help="For each point, instead.", rich_help_panel=_TRAINED, show_default=False
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many; the budget's, else.", rich_help_panel=_TRAINED, show_default=False
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Test images, at most.", rich_help_panel=_TRAINED)
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Methods to train, as 'DeepPrism*'.", rich_help_panel=_TRAINED),
    ] = None,
    lpips: LpipsOption = None,
    features: FeaturesOption = None,
    set_: SetOption = None,
    json_: o.JsonOption = False,
) -> None:
    """Put a table of the paper beside what is counted, measured or trained here; points that were made are kept."""
    trains = what in (What.table4, What.figure1)
    if trains and (data is None or test is None or output is None):
        misused(f"{what} trains: give --data and --test, images, and -o, a folder for its points")
    with steps() as begin:
        begin("loading libraries")
        from ..checkpoint.atomic import whole_file
        from ..paper import ldm, sinddm, table_2, table_3
        from ..paper.budgets import BUDGETS
        from ..paper.points import Setting
        from ..search.outcome import folder_for

        if output is not None:  # before minutes are spent
            folder_for(output / f"{what}.json")
        begin(f"reproducing {what}")
        measured = partial(table_2, tell=lambda name: begin(f"measuring {name}"))
        untrained: dict[What, Callable[[], Table]] = {
            What.table2: measured, What.table3: table_3, What.sinddm: sinddm, What.ldm: ldm,
        }  # fmt: skip
        if what in untrained:
            table = untrained[what]()
    if trains:
        assert data is not None
        assert test is not None
        assert output is not None
        chosen = BUDGETS[budget]
        chosen = replace(chosen, minutes=minutes or chosen.minutes, seeds=seeds or chosen.seeds)
        judged = {key: None if path is None else str(path) for key, path in (("lpips", lpips), ("features", features))}
        setting = Setting(data, test, chosen, count=count, sets=tuple(set_ or ()), judged=judged)
        table = _trained(what, output, setting, only)
    text = json.dumps(table.as_data(), indent=1) + "\n"
    if output is not None:
        for suffix, content in ((".md", table.markdown()), (".json", text)):
            with whole_file(output / f"{what}{suffix}") as draft:
                draft.write_text(content, encoding="utf-8")
    typer.echo(text if json_ else table.markdown(), nl=False)
    words = typed(call, ("what", "json_", "only"))
    if trains:  # the points that both have in common are kept
        next_step("reproduce", What.figure1 if what is What.table4 else What.table4, *words)
    elif what is What.table3:
        next_step("reproduce", What.figure1, "--data", "IMAGES", "--test", "IMAGES", "-o", "DIR")
    else:
        next_step("reproduce", What.table3, *words)


def _trained(what: What, output: Path, setting: Setting, only: str | None) -> Table:
    """Make the points that are not there yet, and put all into a table, Figure 1 into a picture as well."""
    from fnmatch import fnmatchcase

    from ..errors import RecipeError
    from ..metrics.judges import Judges
    from ..paper.figure import draw_figure_1, figure_1, table_4
    from ..paper.methods import methods, table_4_methods
    from ..paper.points import device_of, made_points

    known = methods(setting.budget) if what is What.figure1 else table_4_methods(setting.budget)
    chosen = [m for m in known if only is None or fnmatchcase(f"{m.family}, {m.name}", only)]
    if not chosen:
        names = "; ".join(f"{m.family}, {m.name}" for m in known)
        raise RecipeError(f"--only {only!r} matches no method: there are {names}")
    files = {key: None if path is None else Path(path) for key, path in setting.judged.items()}
    judged, network = opened_judges(files["lpips"], files["features"], device_of(setting))
    judges, points, seeds = Judges(judged and judged[0], network), [], range(setting.budget.seeds)
    with live_view() as watch:
        for point in made_points(chosen, seeds, setting, judges, output, watch):
            points.append(point)
            score = point["scores"]["PSNR"]["mean"]
            done = f"{len(points)} of {len(chosen) * len(seeds)}"
            print(f"{done}: {point['family']}, {point['name']}, seed {point['seed']}: {score:.2f} dB", file=sys.stderr)
    if what is What.table4:
        return table_4(points)
    draw_figure_1(points, output / "figure1.png")
    return figure_1(points)
