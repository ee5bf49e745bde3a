"""`prismify new NAME -o DIR`: a fresh model, dense or converted, ready to train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .following import next_step
from .terminal import loading, one_line_errors, steps
from .usage import misused


@one_line_errors
def new(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of --list.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.", show_default=False)
    ] = None,
    width: Annotated[int | None, typer.Option(metavar="C", min=2, max=65536, help="Channels of its layers.")] = None,
    channels: Annotated[int | None, typer.Option(metavar="N", min=1, help="Of its pictures or latents.")] = None,
    size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Their height and width.")] = None,
    classes: Annotated[int, typer.Option(metavar="N", min=0, help="How many classes it can be told.")] = 0,
    policy: Annotated[
        str, typer.Option(help="Convert it: paper or volumes, as `prismify convert`; none leaves it dense.")
    ] = "none",
    depth: o.DepthOption = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Of the weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that prismify wrote.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Say what can be made, and stop.")] = False,
) -> None:
    """Write a fresh model, and the recipe.yaml that trains it."""
    if list_:
        _list()
        return
    if name is None or output is None:
        misused("name what to make and where, as `prismify new ddpm-unet -o small`; --list says what there is")
    if policy not in ("none", "paper", "volumes"):
        raise typer.BadParameter(f"{policy!r} is none of none, paper, volumes", param_hint="--policy")
    with steps() as begin:
        begin("loading libraries")
        from ..fresh import make_folder
        from ..plan import Policy

        begin(f"making {name}")
        made = make_folder(
            name,
            output,
            width=width,
            channels=channels,
            size=size,
            classes=classes,
            policy=None if policy == "none" else Policy(name=policy, depth=depth),  # type: ignore[arg-type]
            seed=seed,
            force=force,
        )
    ratio = made["dense_parameters"] / made["parameters"]
    smaller = f", 1/{ratio:.0f} of the dense {made['dense_parameters']:,}" if policy != "none" else ""
    typer.echo(f"{made['reference']}: {made['parameters']:,} parameters{smaller}")
    if made["recipe"]:
        next_step("train", output / "recipe.yaml", "--set", "data.path=IMAGES")
    else:
        next_step("bench", output)


def _list() -> None:
    with loading():
        from ..fresh import ARCHITECTURES

    widest = max(map(len, ARCHITECTURES))
    for name, one in ARCHITECTURES.items():
        typer.echo(f"{name:<{widest}}  C = {one.width:<4} {one.summary}")
    next_step("new", "NAME", "-o", "DIR")
