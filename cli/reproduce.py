"""`prismify reproduce table3`: a table of the paper beside what is counted or measured here."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .terminal import one_line_errors, steps


class What(StrEnum):
    """What can be reproduced."""

    table2 = "table2"
    table3 = "table3"
    sinddm = "sinddm"
    ldm = "ldm"


@one_line_errors
def reproduce(
    what: Annotated[What, typer.Argument(help="Which of the paper's tables.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write NAME.md and NAME.json there.", show_default=False),
    ] = None,
    json_: o.JsonOption = False,
) -> None:
    """Put a table of the paper beside what is counted, or measured on this machine."""
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
        if what is What.table2:
            table = table_2(tell=lambda name: begin(f"measuring {name}"))
        else:
            table = {What.table3: table_3, What.sinddm: sinddm, What.ldm: ldm}[what]()
    text = json.dumps(table.as_data(), indent=1) + "\n"
    if output is not None:
        for suffix, content in ((".md", table.markdown()), (".json", text)):
            with whole_file(output / f"{what}{suffix}") as draft:
                draft.write_text(content, encoding="utf-8")
    typer.echo(text if json_ else table.markdown(), nl=False)
