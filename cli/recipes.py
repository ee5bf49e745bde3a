"""`prismify recipes ls / cp / validate`: the recipes that come with prismify, and your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .following import next_step
from .options import TrustCodeOption
from .terminal import loading, one_line_errors
from .train import SetOption
from .usage import OneLineUsage

recipes = typer.Typer(cls=OneLineUsage, name="recipes", help="List, copy and check recipes.", no_args_is_help=True)


@recipes.command("ls")
@one_line_errors
def list_recipes() -> None:
    """List the recipes that come with prismify."""
    with loading():
        from ..training.recipe import shipped_configs

    for name, file in shipped_configs().items():
        first = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        typer.echo(f"{name:24}{first}")
    next_step("recipes", "cp", "NAME")


@recipes.command("cp")
@one_line_errors
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `prismify recipes ls` lists it.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to: a file or a folder.", show_default="NAME.yaml")
    ] = Path("."),
) -> None:
    """Copy a recipe that comes with prismify, to edit it."""
    with loading():
        from ..checkpoint.atomic import whole_file
        from ..errors import OutputError, RecipeError
        from ..training.recipe import shipped_configs

    shipped = shipped_configs()
    if name not in shipped:
        raise RecipeError(f"prismify ships no recipe {name!r}; it has {', '.join(shipped)}")
    if file.is_dir():
        file = file / f"{name}.yaml"
    if file.exists():
        raise OutputError(f"{file} exists; name another file")
    with whole_file(file) as draft:
        draft.write_text(shipped[name].read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"{name} copied to {file}: edit it")
    next_step("train", file, "--set", "data.path=IMAGES")  # which no recipe that comes along can name


@recipes.command("validate")
@one_line_errors
def validate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A file, or a shipped name.", show_default=False)],
    set_: SetOption = None,
    trust_code: TrustCodeOption = False,
) -> None:
    """Check a recipe, and print it with every value it leaves to its default."""
    with loading():
        from ..checkpoint import Trust
        from ..training.recipe import named_references, read_recipe, recipe_yaml

        trust = Trust(trust_code, named=named_references(set_ or ()))
        read = read_recipe(recipe, set_ or (), trust=trust)
        text = recipe_yaml(read)
    typer.echo(text, nl=False)
    missing = ["data.path=IMAGES"] if read.data.path is None else []
    sets = [word for change in (*(set_ or ()), *missing) for word in ("--set", change)]
    next_step("train", recipe, *sets, *(["--trust-code"] if trust_code else []))
