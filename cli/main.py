"""`prismify`: the application. Subcommands import torch only when they run, so that --help is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__
from .bench import bench
from .convert import convert
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .judge import judge
from .new import new
from .push import push
from .recipes import recipes
from .reconstruct import reconstruct
from .report import report
from .reproduce import reproduce
from .sample import sample
from .scan import scan
from .search import search
from .terminal import show_anything
from .train import train
from .usage import OneLineUsage
from .view import view

app = typer.Typer(
    cls=OneLineUsage,
    help="Make generative models hundreds of times smaller: scan, convert, retrain, sample, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(scan)
app.command()(convert)
app.command()(report)
app.command()(new)
app.command()(train)
app.command()(evaluate)
app.command()(reconstruct)
app.command()(search)
app.command()(sample)
app.command()(judge)
app.command()(view)
app.add_typer(recipes)
app.command()(export)
app.command()(push)
app.command()(bench)
app.command()(reproduce)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prismify {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Make generative models hundreds of times smaller: scan, convert, retrain, sample, evaluate."""
    show_anything()
