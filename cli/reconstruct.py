"""`prismify reconstruct DIR IMAGES -o OUT`: pictures beside what an autoencoder makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .evaluate import MODEL_HELP, DataSetOption, RangeOption, SizeOption, autoencoder, device_of, images_of, runs_of
from .following import next_step
from .terminal import one_line_errors, steps


@one_line_errors
def reconstruct(
    model: Annotated[str, typer.Argument(metavar="DIR", help=MODEL_HELP, show_default=False)],
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="An image, or a folder, tar or npz of images.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The folder to write to.", show_default=False)
    ],
    size: SizeOption = None,
    range_: RangeOption = None,
    set_: DataSetOption = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many images, drawn by --seed.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the images that --count draws.")] = 0,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
) -> None:
    """Write each image beside its reconstruction, as OUT/NAME.png, and say how close they are."""
    o.import_all(import_)
    with steps() as begin:
        begin("loading libraries")
        from ..metrics.pairs import write_pairs

        where = device_of(device)
        begin(f"opening {model}")
        opened = autoencoder(model, trust_code, allow or (), trust_pickle)
        stream = images_of(images, runs_of({model: opened}), size, range_, set_ or (), None, count, seed)
        lines = []
        for name, decibels in write_pairs(opened.model.to(where), stream, output, where):
            begin(name)
            lines.append((name, decibels))
    from ..training.data import passed_over_text

    for name, decibels in lines:
        typer.echo(f"{decibels:6.2f} dB  {name}")
    mean = sum(decibels for _, decibels in lines) / len(lines)
    whose = f" by {opened.which}" if opened.which else ""
    typer.echo(f"{mean:6.2f} dB  mean of {len(lines)}{whose}; originals on the left, in {output}")
    passed = passed_over_text(stream.images.passed_over)
    if passed:
        typer.echo(f"passed over: {passed}", err=True)
    next_step("evaluate", model, "--data", images)
