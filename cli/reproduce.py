"""`prismify reproduce table3`: a table of the paper beside what is counted or measured here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .terminal import fail, one_line_errors, steps
from .train import SetOption, live_view

if TYPE_CHECKING:
    from ..paper import Table


class What(StrEnum):
    """What can be reproduced."""

    table2 = "table2"
    table3 = "table3"
    sinddm = "sinddm"
    ldm = "ldm"
    figure1 = "figure1"


_TRAINED = "What is trained"


@one_line_errors
def reproduce(
    what: Annotated[What, typer.Argument(help="Which of the paper's tables.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write NAME.md, NAME.json and what belongs to it.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="IMAGES", help="For figure1: images to train on.", rich_help_panel=_TRAINED),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option("--test", metavar="IMAGES", help="And those to measure on.", rich_help_panel=_TRAINED),
    ] = None,
    minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="For each point.", rich_help_panel=_TRAINED)
    ] = 10.0,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="How many.", rich_help_panel=_TRAINED)] = 2,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Test images, at most.", rich_help_panel=_TRAINED)
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Methods to train, as 'DeepPrism*'.", rich_help_panel=_TRAINED),
    ] = None,
    set_: SetOption = None,
    json_: o.JsonOption = False,
) -> None:
    """Put a table of the paper beside what is counted, measured or trained here; points that were made are kept."""
    if what is What.figure1 and (data is None or test is None or output is None):
        fail("figure1 trains: give --data and --test, images, and -o, a folder for its points")
        return
    with steps() as begin:
        begin("loading libraries")
        from ..checkpoint.atomic import whole_file
        from ..errors import OutputError
        from ..paper import ldm, sinddm, table_2, table_3

        if output is not None:  # before minutes are spent
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{output} cannot be written: {error.strerror}") from error
        begin(f"reproducing {what}")
        measured = partial(table_2, tell=lambda name: begin(f"measuring {name}"))
        untrained: dict[What, Callable[[], Table]] = {
            What.table2: measured, What.table3: table_3, What.sinddm: sinddm, What.ldm: ldm,
        }  # fmt: skip
        if what in untrained:
            table = untrained[what]()
    if what is What.figure1:
        assert data is not None
        assert test is not None
        assert output is not None
        table = _figure_1(output, data, test, minutes, seeds, count, only, tuple(set_ or ()))
    text = json.dumps(table.as_data(), indent=1) + "\n"
    if output is not None:
        for suffix, content in ((".md", table.markdown()), (".json", text)):
            with whole_file(output / f"{what}{suffix}") as draft:
                draft.write_text(content, encoding="utf-8")
    typer.echo(text if json_ else table.markdown(), nl=False)


def _figure_1(
    output: Path,
    data: str,
    test: str,
    minutes: float,
    seeds: int,
    count: int | None,
    only: str | None,
    sets: tuple[str, ...],
) -> Table:
    """Make the points that are not there yet, and draw them all."""
    from fnmatch import fnmatchcase

    from ..errors import RecipeError
    from ..paper.figure import draw_figure_1, figure_1
    from ..paper.methods import METHODS
    from ..paper.points import Budget, made_points

    methods = [m for m in METHODS if only is None or fnmatchcase(f"{m.family}, {m.name}", only)]
    if not methods:
        names = "; ".join(f"{m.family}, {m.name}" for m in METHODS)
        raise RecipeError(f"--only {only!r} matches no method: there are {names}")
    budget, points = Budget(data, test, minutes, count=count, sets=sets), []
    with live_view() as watch:
        for point in made_points(methods, range(seeds), budget, output, watch):
            points.append(point)
            score = point["scores"]["PSNR"]["mean"]
            done = f"{len(points)} of {len(methods) * seeds}"
            print(f"{done}: {point['family']}, {point['name']}, seed {point['seed']}: {score:.2f} dB", file=sys.stderr)
    draw_figure_1(points, output / "figure1.png")
    return figure_1(points)
