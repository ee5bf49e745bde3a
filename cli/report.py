"""`prismify report DIR`: the report of a converted folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .following import after_report, next_step
from .terminal import loading, one_line_errors


@one_line_errors
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A folder that convert wrote, a run's or a search's, or the name of a trained model that comes along.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write it as one HTML file, with the scores of a search and the curves and pictures of runs in DIR.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --html replace a file that is no page.")] = False,
    all_layers: o.AllLayersOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Show the report of a converted model."""
    with loading():
        from ..checkpoint.manifest import REPORT_NAME
        from ..checkpoint.shipped import folder_of
        from ..diffusion.opening import is_denoiser
        from ..errors import PrismifyError, SourceError
        from ..search.telling import is_search
        from .page import report_of, write_page
        from .render import print_json, print_report

    name, folder = str(folder), folder_of(folder)
    content = report_of(folder)
    try:
        if html is not None:
            write_page(folder, content, html, force=force)
            print(f"page written to {html}", file=sys.stderr)
        elif content is None:
            raise SourceError(
                f"{folder} trains a model that was not converted, and has no report: --html shows the run"
            )
        elif json_:
            print_json(content)
        else:
            print_report(content, all_layers=all_layers)
    except PrismifyError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{folder / REPORT_NAME} is damaged: {type(error).__name__} {error}") from error
    if is_search(folder):
        next_step("search", name, "--parameters", "N", "--plan-out", "plan.json")
    else:
        next_step(*after_report(folder, name, content or {}, is_denoiser=is_denoiser(name)))
