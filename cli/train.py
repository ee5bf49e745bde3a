"""`prismify train RECIPE`: retrain a model as a recipe says."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AllowOption, ImportOption, TrustCodeOption, TrustOption, import_all
from .terminal import loading, one_line_errors

if TYPE_CHECKING:
    from ..training.engine import Event, Watch

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value of the recipe, as train.batch_size=64. May repeat."),
]


@one_line_errors
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A recipe's YAML file, or the name of a shipped one.", show_default=False
        ),
    ],
    set_: SetOption = None,
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="Processes on this machine.")] = 1,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what the output holds of an earlier run.")] = False,
    trust_code: TrustCodeOption = False,
    import_: ImportOption = None,
    allow: AllowOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Retrain a model. Started again with the same command, a run goes on where it stopped."""
    with loading():
        from ..checkpoint import Trust
        from ..errors import RecipeError
        from ..recipes import carry_out
        from ..training.engine import is_launched, launch
        from ..training.recipe import named_references, read_recipe

        import_all(import_)
        trust = Trust(trust_code, tuple(allow or ()), trust_pickle, named=named_references(set_ or ()))
        read = read_recipe(recipe, set_ or (), trust=trust)
    if processes > 1 and not is_launched():
        words = [recipe]
        for option, values in (("--set", set_), ("--allow", allow), ("--import", import_)):
            words += _repeated(option, values)
        words += ["--restart"] * restart + ["--trust-code"] * trust_code + ["--trust-pickle"] * trust_pickle
        raise typer.Exit(launch([*_this_program(), "train", *words], processes))
    if processes > 1:
        raise RecipeError("--processes starts processes itself: leave it out under torchrun or accelerate launch")
    with live_view() as watch:
        carry_out(read, watch, restart=restart, trust=trust)


def _repeated(option: str, values: list[str] | None) -> list[str]:
    return [word for value in values or () for word in (option, value)]


def _this_program() -> list[str]:
    """How to start this command line again: the packages are found where this process found them."""
    paths = repr([str(p) for p in sys.modules["prismify"].__path__])
    start = (
        f"import sys, prismify; prismify.__path__[:] = {paths}; from prismify.cli.main import app; "
        "sys.argv[0] = 'prismify'; app()"
    )
    return [sys.executable, "-c", start]


@contextmanager
def live_view() -> Iterator[Watch]:
    """A bar with losses, rate and time left on a terminal; a line now and then anywhere else."""
    from .progress import Pace, run_progress
    from .terminal import prose, quiet_libraries

    console = prose(stderr=True)
    pace: Pace | None = None
    with quiet_libraries(), run_progress(console) as progress:
        bar = progress.add_task("preparing", total=None)

        def watch(event: Event) -> None:
            with suppress(OSError):  # of a terminal that was closed: the run itself hears of it by a signal
                show(event)

        def show(event: Event) -> None:
            nonlocal pace
            if event.kind == "said":
                progress.console.print(event.text, markup=False)
            elif event.kind == "began":
                pace = Pace.of(event)
                progress.update(bar, total=pace.steps, completed=event.step, visible=True, description="")
            elif event.kind == "step":
                seconds = event.values["seconds"]
                left = pace.left(event.step, seconds) if pace is not None else 0.0
                times: dict[str, Any] = {"ends": time.monotonic() + left, "share": seconds / max(1e-9, seconds + left)}
                # The total goes first on the bar, which is cut where the terminal ends.
                first = {"total": event.values["total"]} if "total" in event.values else {}
                progress.update(bar, completed=event.step, description=_numbers({**first, **event.values}), **times)
                if not console.is_terminal:
                    progress.console.print(f"step {event.step}: {_numbers(event.values)}", markup=False)
            elif event.kind == "counted":
                done, of = (int(event.values[key]) for key in ("done", "of"))
                progress.update(bar, completed=done, total=of, description=event.text, ends=None, share=None)
                if not console.is_terminal and done % max(1, of // 10) == 0:
                    progress.console.print(f"{event.text} {done} of {of}", markup=False)
            else:
                text = ", ".join(f"{k} {v:.4g}" for k, v in event.values.items())
                progress.console.print(f"step {event.step}, held-out images: {text}", markup=False)

        try:
            yield watch
        except KeyboardInterrupt:  # of the second signal, or of one outside of steps
            progress.console.print("stopped; the same command goes on from what was kept")
            raise


def _numbers(values: Any) -> str:
    shown = {k: v for k, v in values.items() if k not in ("seconds", "learning_rate")}
    return "  ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in shown.items())
