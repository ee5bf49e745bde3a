"""`prismify evaluate DIR [OTHER ...] --data IMAGES`: models measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .following import next_step
from .judged import (
    FeaturesOption,
    LpipsOption,
    ResultsOption,
    SplitsOption,
    SubsetSizeOption,
    SubsetsOption,
    check_results_place,
    opened_judges,
    plain_data,
    plain_judges,
    plain_row,
    print_judges,
    print_missing,
    print_rows,
    write_results,
)
from .terminal import one_line_errors, prose, steps

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..metrics.evaluation import Evaluation
    from ..training.data import Stream
    from ..training.schema import Data

MODEL_HELP = (
    "A converted folder, a run's folder (its best weights, or as far as it came), a diffusers folder, a model "
    "reference, or the name of a trained model that comes along."
)
RangeOption = Annotated[
    str | None,
    typer.Option(
        "--range", metavar="BLACK,WHITE", help="What black and white are for the model; the run's, else -1,1."
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Side of the square cut out of each image; the run's, else images are whole."
    ),
]
DataSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="data.KEY=VALUE", help="Read images otherwise than the run did. May repeat."),
]


@dataclass(frozen=True)
class Opened:
    """A model that a command names.

    Args:
        data: how its run saw images; None where it is of no run.
        which: of the run's models.
    """

    model: nn.Module
    data: Data | None = None
    which: str = ""


@one_line_errors
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="DIR [OTHER ...]", help=MODEL_HELP, show_default=False)],
    data: Annotated[
        str, typer.Option("--data", metavar="IMAGES", help="A folder, tar or npz of images.", show_default=False)
    ],
    size: SizeOption = None,
    range_: RangeOption = None,
    set_: DataSetOption = None,
    select: Annotated[str | None, typer.Option(metavar="PATTERN", help="Names to take, as 'test/*'.")] = None,
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="Measure on N images, drawn by --seed.")] = None,
    lpips: LpipsOption = None,
    features: FeaturesOption = None,
    splits: SplitsOption = 10,
    subsets: SubsetsOption = 100,
    subset_size: SubsetSizeOption = 1000,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the images that --count draws.")] = 0,
    output: ResultsOption = None,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Measure autoencoders: PSNR, SSIM, LPIPS, IS, KID, FID; a metric whose weights are missing is named."""
    o.import_all(import_)
    with steps() as begin:
        begin("loading libraries")
        from ..metrics.evaluation import evaluate as measure
        from ..metrics.judges import Judges
        from ..metrics.ranges import InRange

        where = device_of(device)
        if output is not None:
            check_results_place(output)
        opened = {}
        for name in models:
            begin(f"opening {name}")
            opened[name] = autoencoder(name, trust_code, allow or (), trust_pickle)
        images = images_of(data, runs_of(opened), size, range_, set_ or (), select, count, seed)
        judged, network = opened_judges(lpips, features, where)
        is_set = range_ is not None or any(change.startswith("data.range=") for change in set_ or ())
        own = {name: _own_range(one, is_set, images.data.range) for name, one in opened.items()}
        judges = Judges(judged and judged[0], network, splits, subsets, subset_size)
        seen = images.data.range
        measured = {
            name: one.model if own[name] == seen else InRange(one.model, own[name], seen)
            for name, one in opened.items()
        }
        found = measure(measured, images, judges, batch_size=batch_size, device=where, watch=begin)
    content = {
        "data": plain_data(data, select, found.images, images, seed),
        "ranges": own,
        "weights": {name: one.which for name, one in opened.items() if one.which},
        **plain_judges(judged, network),
        "models": {model: plain_row(row) for model, row in found.rows.items()},
        "parameters": found.parameters,
        "missing": found.missing,
    }
    if output is not None:
        write_results(output, content, found.pictures)
    from .render import print_json

    if json_:
        print_json(content)
    else:
        _print(found, content, output)
    next_step("reconstruct", models[0], data, "-o", "OUT")


def images_of(
    path: str,
    runs: Mapping[str, Data],
    size: int | None,
    range_: str | None,
    sets: Sequence[str],
    select: str | None,
    count: int | None,
    seed: int,
) -> Stream:
    """The images that a command names, in order, as the models' runs saw images; what a person sets goes first.

    Args:
        runs: name -> the `data` of its run's recipe.
    """
    from ..training.data import Stream, open_images, order_of
    from ..training.finished import shared_settings
    from ..training.recipe import changed_data
    from ..training.schema import Data

    sets = [*sets, *([f"data.size={size}"] if size is not None else [])]
    settled = {change.partition("=")[0].removeprefix("data.") for change in sets}
    # What the person sets need not be the same in all runs.
    defaults = {key: value for key, value in vars(Data()).items() if key in settled}
    runs = {name: replace(data, **defaults) for name, data in runs.items()}
    settings = replace(changed_data(shared_settings(runs), sets), path=path, select=select)
    if range_ is not None:
        settings = replace(settings, range=_range(range_))
    images = open_images(settings)
    if count is not None and count < len(images):
        images = images.subset(order_of(len(images), seed, 0)[:count].sort().values.tolist())
    return Stream(images, settings, seed)


def runs_of(opened: Mapping[str, Opened]) -> dict[str, Data]:
    """How the runs of models saw images: name -> data."""
    return {name: one.data for name, one in opened.items() if one.data is not None}


def _own_range(opened: Opened, is_set: bool, given: tuple[float, float]) -> tuple[float, float]:
    """What black and white are for a model: what the person says, its run says, or -1 and 1."""
    if is_set:
        return given
    return opened.data.range if opened.data is not None else (-1.0, 1.0)


def autoencoder(name: str, trust_code: bool, allow: Sequence[str] = (), trust_pickle: bool = False) -> Opened:
    """The autoencoder that a command names."""
    from ..checkpoint import Trust
    from ..diffusion.opening import is_denoiser
    from ..errors import SourceError
    from ..training.finished import run_model, run_of, run_recipe
    from ..training.models import is_autoencoder, open_model
    from ..training.schema import ModelSource

    trust = Trust(trust_code, tuple(allow), trust_pickle, named=frozenset({name}))
    run = run_of(Path(name))
    if run is not None:
        model, which = run_model(Path(name), trust)
        opened = Opened(model, run_recipe(run).data, which)
    else:
        opened = Opened(open_model(ModelSource(source=name), trust))
    opened.model.eval().requires_grad_(False)
    if not is_autoencoder(opened.model):
        also = "; what a denoiser makes is measured by `prismify judge`" if is_denoiser(name) else ""
        raise SourceError(f"{name} holds a {type(opened.model).__name__}, which has no encode and decode{also}")
    return opened


def device_of(name: str) -> torch.device:
    """The device a command names."""
    import torch

    from ..errors import TrainingError

    if name not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{name!r} is neither cpu nor cuda", param_hint="--device")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch sees no GPU here")
    return torch.device(name)


def _range(text: str) -> tuple[float, float]:
    try:
        black, white = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not BLACK,WHITE such as 0,1", param_hint="--range") from None
    return black, white


def _print(found: Evaluation, content: dict[str, Any], output: Path | None) -> None:
    from rich.markup import escape

    from ..training.data import passed_over_text

    console = prose()
    print_rows(console, found.rows, {"parameters": {name: f"{count:,}" for name, count in found.parameters.items()}})
    images = escape(str(content["data"]["path"]))
    size = content["data"]["size"]
    cut = f" cut to {size}x{size}" if size is not None else ""
    console.print(f"On {found.images} images of {images}{cut}; ± over images, splits or subsets.")
    passed = passed_over_text(content["data"]["passed_over"])
    if passed:
        console.print(f"[dim]Passed over: {escape(passed)}[/]")
    for model, (black, white) in content["ranges"].items():
        which = f", {content['weights'][model]}" if model in content["weights"] else ""
        if which or (black, white) != (-1.0, 1.0):
            console.print(f"[dim]{escape(model)}: black {black:g}, white {white:g}{which}[/]")
    print_judges(console, content)
    print_missing(console, found.missing)
    if output is not None:
        console.print(f"Pictures, originals in the first row: {escape(str(output / 'pictures.png'))}")
