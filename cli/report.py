"""`prismify report DIR`: the report of a converted folder."""

from __future__ import annotations

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
            help="A folder that convert wrote, or the name of a trained model that comes along.",
            show_default=False,
        ),
    ],
    all_layers: o.AllLayersOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Show the report of a converted model."""
    with loading():
        from ..checkpoint.manifest import REPORT_NAME, read_manifest, read_report
        from ..checkpoint.shipped import folder_of
        from ..diffusion.opening import is_denoiser
        from ..errors import SourceError
        from .render import print_json, print_report

    name, folder = str(folder), folder_of(folder)
    manifest, content = read_manifest(folder), read_report(folder)
    try:
        if json_:
            print_json(content)
        else:
            print_report(content, all_layers=all_layers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{folder / REPORT_NAME} is damaged: {type(error).__name__} {error}") from error
    next_step(*after_report(folder, name, manifest.get("parts"), content.get("notes"), is_denoiser(name)))
