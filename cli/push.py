"""`prismify push DIR owner/name`: a model's folder on a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .following import next_step
from .terminal import one_line_errors, steps
from .usage import misused


@one_line_errors
def push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A folder that convert wrote, a run's (its best weights), or a diffusers model's or pipeline's.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repository; made where there is none.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made is private.")] = False,
    branch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Commit to this branch; made where there is none.")
    ] = None,
    message: Annotated[
        str, typer.Option(metavar="TEXT", help="Of the commit.", show_default=False)
    ] = "Upload a model by prismify",
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Replace the repository's README.md though a person edited it.")
    ] = False,
) -> None:
    """Put a model on a hub as one commit, with a card that says what was replaced and how it measures."""
    with steps() as begin:
        begin("loading libraries")
        from ..checkpoint.hub import hub_name
        from ..publishing import push_to_hub

        wanted = hub_name(name)
        if wanted is None or wanted.revision is not None:
            misused(f"{name!r} is not OWNER/NAME")
        pushed = push_to_hub(
            folder,
            name,
            private=private,
            branch=branch,
            message=message,
            replace_card=replace_card,
            watch=begin,
        )
    typer.echo(f"{len(pushed.files)} files pushed: {pushed.url}")
    if pushed.elsewhere:
        typer.echo(f"The model needs what lies outside its folder; pushed with it: {', '.join(pushed.elsewhere)}")
    if pushed.kept_card:
        typer.echo("The repository's README.md was edited by a person and stays; --replace-card replaces it.", err=True)
    next_step("report" if "prismify.json" in pushed.files else "scan", pushed.name)
