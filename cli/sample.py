"""`prismify sample DIR -o OUT`: pictures of a trained denoiser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .evaluate import device_of
from .following import next_step
from .terminal import one_line_errors, steps

MODEL_HELP = (
    "A run's folder (its best weights, or as far as it came), the folder of a denoiser that a run trained, or the name "
    "of one that comes along."
)
StepsOption = Annotated[
    int | None, typer.Option("--steps", metavar="N", min=1, help="How often the model is asked; else 50.")
]
SamplerOption = Annotated[str, typer.Option(help="ddpm, ddim, dpm++ or euler; auto: ddim, or euler for a flow.")]
ClassOption = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="Of all pictures, by name or number; else in turn.")
]
GuidanceOption = Annotated[float, typer.Option(metavar="W", min=0, help="Towards the class; 1 is none.")]
_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


@one_line_errors
def sample(
    model: Annotated[str, typer.Argument(metavar="DIR", help=MODEL_HELP, show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The folder to write to.", show_default=False)
    ],
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", min=1, help="How many pictures.")] = 16,
    steps_: StepsOption = None,
    sampler: SamplerOption = "auto",
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="The same seed gives the same pictures, at any batch size.")
    ] = 0,
    class_: ClassOption = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Of all pictures.")] = None,
    guidance: GuidanceOption = 1.0,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="In pixels, as 256x128; else as the model was trained.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures at a time.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
) -> None:
    """Sample pictures: OUT/0000.png and so on, grid.png, and samples.json with what made them."""
    o.import_all(import_)
    wanted_size = _size(size)
    with steps() as begin:
        begin("loading libraries")
        from ..checkpoint import Trust
        from ..diffusion.making import Wanted
        from ..diffusion.opening import open_denoiser

        where = device_of(device)
        begin(f"opening {model}")
        trust = Trust(trust_code, tuple(allow or ()), trust_pickle, named=frozenset({model}))
        opened = open_denoiser(model, trust)
    wanted = Wanted(
        count=count,
        steps=steps_,
        sampler=sampler,
        seed=seed,
        label=class_,
        prompt=prompt,
        guidance=guidance,
        size=wanted_size,
        batch_size=batch_size,
    )
    from ..diffusion.writing import check_place, write_samples

    check_place(output, count)
    began = time.monotonic()
    with _bar(f"sampling {count} pictures") as watch:
        facts = write_samples(opened, wanted, output, model, where, watch)
    took = time.monotonic() - began
    whose = f" by {opened.which}" if opened.which else ""
    typer.echo(
        f"{count} pictures of {facts['width']}x{facts['height']}{whose}, {facts['steps']} steps of {facts['sampler']}, "
        f"in {took:.1f} s: {output / 'grid.png'}"
    )
    next_step("judge", output, "--data", "IMAGES")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    width, height = (int(found[1]), int(found[2] or found[1])) if found is not None else (0, 0)
    if min(width, height) < 1:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT such as 256x128", param_hint="--size")
    return width, height


@contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Steps done and time left, on a terminal."""
    from rich.console import Console

    from .progress import run_progress
    from .terminal import quiet_libraries

    console = Console(stderr=True)
    began = time.monotonic()
    with quiet_libraries(), run_progress(console) as progress:
        task = progress.add_task(text, total=None)

        def watch(done: int, all_steps: int) -> None:
            left = (all_steps - done) * (time.monotonic() - began) / max(1, done)
            progress.update(task, total=all_steps, completed=done, ends=time.monotonic() + left)

        yield watch
