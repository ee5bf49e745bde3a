"""`prismify search MODEL --data IMAGES -o DIR --ratio 10`: the smallest model that still works, as a plan."""

from __future__ import annotations

import math
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .following import next_step
from .terminal import loading, one_line_errors, prose, steps
from .train import SetOption, live_view
from .usage import misused

if TYPE_CHECKING:
    from ..search import Budget, Outcome
    from ..search.widths import WidthsOutcome
    from .found import Found

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BUDGET = "How small"


@one_line_errors
def search(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DIR", help="A trained model as for convert, or the folder of a search.", show_default=False
        ),
    ],
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="Images: a folder, tar, npz or shards.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder of the search.", show_default=False)
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option("--parameters", metavar="N", help="At most so many, as 250K.", rich_help_panel=_BUDGET),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", metavar="X", min=1.0, help="So many times fewer parameters.", rich_help_panel=_BUDGET),
    ] = None,
    macs: Annotated[
        str | None,
        typer.Option("--macs", metavar="N", help="At most so many multiply-adds, as 3G.", rich_help_panel=_BUDGET),
    ] = None,
    ms: Annotated[
        float | None,
        typer.Option("--ms", metavar="MS", help="At most so long for one image, in ms.", rich_help_panel=_BUDGET),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop",
            metavar="DB",
            help="The fewest parameters that lose at most so much PSNR before retraining, as 0.5dB.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="X",
            help="The same by the share of the output's variance, as 0.05.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    widths: Annotated[
        bool,
        typer.Option(
            "--widths", help="Look for the channels that every width can lose, in one look and in minutes, instead."
        ),
    ] = False,
    plan_out: Annotated[
        Path | None, typer.Option("--plan-out", metavar="FILE", help="Where the plan goes; DIR/plans by default.")
    ] = None,
    model: o.ModelOption = None,
    arg: o.ArgOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    set_: SetOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what DIR holds of an earlier search.")] = False,
    json_: o.JsonOption = False,
) -> None:
    """Find what each block of a trained model can become, and choose for a budget. Another budget takes seconds."""
    with loading():
        from ..errors import PlanError
        from ..search.outcome import SCORES, folder_for
        from ..search.widths import NO_TIMES, WIDTHS
        from .work import check_plan_place

    wanted = {
        "parameters": parameters, "ratio": ratio, "macs": macs, "ms": ms, "max drop": max_drop, "max error": max_error,
    }  # fmt: skip
    given = {name: value for name, value in wanted.items() if value is not None}
    for name, value in given.items():
        _amount(value, name)  # before anything is searched
    folder = Path(source) if data is None and output is None and Path(source).is_dir() else output
    if folder is None or (data is None and not Path(source).is_dir() and not folder.is_dir()):
        misused("a search needs --data, images to learn on, and -o, a folder for what it finds")
    if restart and data is None:
        misused("--restart searches anew: give the model, --data and -o")
    widths = widths or (data is None and (folder / WIDTHS).is_file() and not (folder / SCORES).is_file())
    if widths and "ms" in given:
        raise PlanError(NO_TIMES)
    if plan_out is not None:
        check_plan_place(plan_out)
        folder_for(plan_out)
    if data is not None:
        trusted = (trust_code, allow, trust_pickle, import_)
        widths = _searched(source, data, folder, model, arg, set_, widths, restart, trusted)
    said = ", ".join(f"{name} {value}".removesuffix(".0") for name, value in given.items())
    path = (plan_out or folder / "plans" / (re.sub(r"[^\w.]+", "-", said) + ".json")) if given else None
    with steps() as begin:
        begin("choosing")
        found, named = _chosen(folder, widths, given, path, said)
    if json_:
        from .found import as_data
        from .render import print_json

        print_json(as_data(found, path))
    else:
        _show(found)
    if path is None:
        known = [name for name in wanted if name not in found.unknown]
        flags = ", ".join(f"--{name.replace(' ', '-')}" for name in known)
        print(f"for a plan give a budget: {flags}", file=sys.stderr)
        next_step("search", folder, "--ratio", "10")
        return
    beside = "" if widths else ", and beside it what its candidates have learned"
    print(f"plan written to {path}{beside}", file=sys.stderr)
    next_step("convert", *shlex.split(named), "--plan", path, "-o", "DIR")


def _chosen(folder: Path, widths: bool, given: dict[str, Any], path: Path | None, said: str) -> tuple[Found, str]:
    """What a search found, with what is chosen where a plan goes to `path`; and the model, as words for a shell."""
    from ..search import read_outcome, write_plan
    from ..search.widths import read_widths, write_widths_plan
    from .found import found_of_blocks, found_of_widths

    if widths:
        of_widths = read_widths(folder)
        left: dict[str, int] = {}
        if path is not None:
            left = of_widths.within(_budget(of_widths, of_widths.spread.variance, given))
            write_widths_plan(of_widths, left, path, said)
        return found_of_widths(of_widths, left), of_widths.source
    of_blocks = read_outcome(folder)
    chosen: list[int] = []
    if path is not None:
        chosen = of_blocks.within(_budget(of_blocks, of_blocks.scores.variance, given))
        write_plan(of_blocks, chosen, path, said)
    return found_of_blocks(of_blocks, chosen), of_blocks.source


def _searched(
    source: str,
    data: str,
    folder: Path,
    model: str | None,
    arg: list[str] | None,
    sets: list[str] | None,
    widths: bool,
    restart: bool,
    trusted: tuple[bool, list[str] | None, bool, list[str] | None],
) -> bool:
    """Carry out the recipe `search`, where its folder does not hold the result already; whether it was of widths."""
    import json

    from ..checkpoint import Trust
    from ..errors import PlanError
    from ..recipes import carry_out
    from ..recipes.search import words_of
    from ..search import read_outcome
    from ..search.outcome import SCORES
    from ..search.widths import WIDTHS, read_widths
    from ..training.recipe import asked_of, changed_keys, named_references, read_recipe
    from ..training.schema import SearchRecipe

    code, allow, pickle, import_ = trusted
    o.import_all(import_)
    named: dict[str, Any] = {"source": source, "architecture": model, "arguments": o.parse_arguments(arg)}
    words = [f"model={json.dumps({k: v for k, v in named.items() if v})}", f"data.path={json.dumps(data)}"]
    words += [f"output={json.dumps(str(folder))}", *(["widths=true"] if widths else []), *(sets or ())]
    trust = Trust(code, tuple(allow or ()), pickle, named=named_references(words))
    recipe = read_recipe("search", words, trust=trust)
    assert isinstance(recipe, SearchRecipe)
    held, other = (WIDTHS, SCORES) if recipe.widths else (SCORES, WIDTHS)
    if not restart and (folder / other).is_file():
        kind = "blocks" if recipe.widths else "widths"
        raise PlanError(f"{folder} holds a search of {kind}: name another output, or add --restart")
    if not restart and (folder / held).is_file():
        searched = read_widths(folder) if recipe.widths else read_outcome(folder)
        if searched.source != words_of(recipe.model):
            raise PlanError(f"{folder} holds a search of {searched.source}: name another output, or add --restart")
        changed = changed_keys(searched.asked, asked_of(recipe)) if searched.asked else {}
        for key, (was, now) in changed.items():
            raise PlanError(
                f"{folder} holds a search with {key}={was}, not {now}: name another output, or add --restart; another "
                f"budget of the same search needs no --data (prismify search {shlex.quote(str(folder))} --ratio 8)"
            )
    if restart or not (folder / held).is_file():
        with live_view() as watch:
            carry_out(recipe, watch, restart=restart, trust=trust)
    return recipe.widths


def _budget(outcome: Outcome | WidthsOutcome, variance: float, given: dict[str, Any]) -> Budget:
    from ..search import Budget

    amounts = {name: _amount(value, name) for name, value in given.items()}
    before = outcome.plan.parameters.before
    most = [amounts[name] for name in ("parameters",) if name in amounts]
    most += [before / amounts["ratio"]] if "ratio" in amounts else []
    errors = [amounts["max error"] * variance] if "max error" in amounts else []
    errors += [outcome.drop(amounts["max drop"])] if "max drop" in amounts else []
    return Budget(
        parameters=min(most) if most else None,
        macs=amounts.get("macs"),
        milliseconds=amounts.get("ms"),
        error=min(errors) if errors else None,
    )


def _amount(value: str | float, name: str) -> float:
    """A number with a unit, as 250K or 0.5dB."""
    from ..errors import PlanError

    if isinstance(value, (int, float)):
        if not (math.isfinite(value) and value > 0):
            raise PlanError(f"--{name.replace(' ', '-')} {value:g}: give a number above 0")
        return float(value)
    text = value.strip().replace("_", "").replace(",", "")
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)", text)
    unit = found.group(2).lower() if found else ""
    if found and name == "max drop" and unit in ("", "db"):
        return float(found.group(1))
    if found and name != "max drop" and unit in _UNITS:
        return float(found.group(1)) * _UNITS[unit]
    like = "0.5dB" if name == "max drop" else "250K or 1.2M"
    raise PlanError(f"--{name.replace(' ', '-')} {value}: give a number such as {like}")


def _show(found: Found) -> None:
    """What was chosen, row by row, and what is expected of it."""
    from rich.console import Console
    from rich.table import Table

    from .found import sums

    if found.rows:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading, side in zip(found.headings, found.sides, strict=True):
            table.add_column(heading, justify=side, no_wrap=True)
        for row in found.rows:
            table.add_row(*row.cells, style="green" if row.changed else "dim")
        Console(highlight=False).print(table)
    for said in (sums(found) if found.rows else found.searched, found.ranked):
        prose().print(said, markup=False)
