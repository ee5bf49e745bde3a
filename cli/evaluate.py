"""`prismify evaluate DIR [OTHER ...] --data IMAGES`: models measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .terminal import one_line_errors, steps

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..metrics.evaluation import Evaluation
    from ..metrics.networks import FeatureNetwork
    from ..training.data import Stream
    from ..training.losses import LPIPS
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
    lpips: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of LPIPS (alex or vgg).")] = None,
    features: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights of a feature network: FID's InceptionV3, or a CIFAR-10 ResNet."),
    ] = None,
    splits: Annotated[int, typer.Option(metavar="N", min=1, help="Splits of the inception score.")] = 10,
    subsets: Annotated[int, typer.Option(metavar="N", min=1, help="Subsets of KID.")] = 100,
    subset_size: Annotated[int, typer.Option(metavar="N", min=10, help="Images in a subset of KID.")] = 1000,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1)] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write evaluation.json and pictures.png here."),
    ] = None,
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
            _check_place(output)
        opened = {}
        for name in models:
            begin(f"opening {name}")
            opened[name] = autoencoder(name, trust_code, allow or (), trust_pickle)
        images = images_of(data, opened, size, range_, set_ or (), select, count, seed)
        judged, network = _judges(lpips, features, where)
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
        "data": {
            "path": data,
            "select": select,
            "images": found.images,
            "passed_over": dict(images.images.passed_over),
            "size": images.data.size,
            "seed": seed,
        },
        "ranges": own,
        "weights": {name: one.which for name, one in opened.items() if one.which},
        "lpips": judged and judged[1],
        "features": network and {"network": network.name, "file": network.file, "sha256": network.sha256},
        **_plain(found),
    }
    if output is not None:
        _write(output, content, found)
    from .render import print_json

    if json_:
        print_json(content)
    else:
        _print(found, content, output)


def images_of(
    path: str,
    opened: Mapping[str, Opened],
    size: int | None,
    range_: str | None,
    sets: Sequence[str],
    select: str | None,
    count: int | None,
    seed: int,
) -> Stream:
    """The images that a command names, in order, as the models' runs saw images; what a person sets goes first."""
    from ..training.data import Stream, open_images, order_of
    from ..training.finished import shared_settings
    from ..training.recipe import changed_data
    from ..training.schema import Data

    runs = {name: one.data for name, one in opened.items() if one.data is not None}
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


def _own_range(opened: Opened, is_set: bool, given: tuple[float, float]) -> tuple[float, float]:
    """What black and white are for a model: what the person says, its run says, or -1 and 1."""
    if is_set:
        return given
    return opened.data.range if opened.data is not None else (-1.0, 1.0)


def autoencoder(name: str, trust_code: bool, allow: Sequence[str] = (), trust_pickle: bool = False) -> Opened:
    """The autoencoder that a command names."""
    from ..checkpoint import Trust
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
        raise SourceError(f"{name} holds a {type(opened.model).__name__}, which has no encode and decode")
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


def _judges(
    lpips: Path | None, features: Path | None, device: torch.device
) -> tuple[tuple[LPIPS, str] | None, FeatureNetwork | None]:
    from ..checkpoint.formats import read_state
    from ..metrics.networks import load_network
    from ..training.losses import load_lpips
    from ..training.schema import Perceptual

    judged = None
    if lpips is not None:
        first = read_state(lpips, shapes=True).get("features.0.weight")
        net = "alex" if first is not None and tuple(first.shape) == (64, 3, 11, 11) else "vgg"
        judged = load_lpips(Perceptual(net=net, weights=str(lpips)), "--lpips")  # type: ignore[arg-type]
    return judged, None if features is None else load_network(features, device)


def _plain(found: Evaluation) -> dict[str, Any]:
    rows = {
        model: {metric: {"mean": s.mean, "deviation": s.deviation, "over": s.over} for metric, s in row.items()}
        for model, row in found.rows.items()
    }
    return {"models": rows, "parameters": found.parameters, "missing": found.missing}


def _check_place(output: Path) -> None:
    """See that the results take the place of nothing but earlier ones, before hours are spent on them."""
    from ..errors import OutputError
    from ..training.pictures import check_replaceable
    from ..validation import read_json_file

    check_replaceable(output, [output / "pictures.png"])
    table = output / "evaluation.json"
    try:
        earlier = read_json_file(table) if table.exists() else {"models": {}, "data": {}}
    except (OSError, ValueError):
        earlier = None
    if table.is_symlink() or not isinstance(earlier, dict) or not {"models", "data"} <= earlier.keys():
        raise OutputError(f"{table} exists and was not written by prismify; choose another output")


def _write(output: Path, content: dict[str, Any], found: Evaluation) -> None:
    from ..checkpoint.atomic import whole_file
    from ..checkpoint.manifest import write_json
    from ..training.pictures import write_png

    output.mkdir(parents=True, exist_ok=True)
    with whole_file(output / "evaluation.json") as draft:
        write_json(draft, content)
    write_png(output / "pictures.png", found.pictures)


def _print(found: Evaluation, content: dict[str, Any], output: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..training.data import passed_over_text

    console = Console(highlight=False, soft_wrap=True)
    metrics = list(dict.fromkeys(m for row in found.rows.values() for m in row))
    order = ["PSNR", "SSIM", "LPIPS"]
    metrics.sort(key=lambda m: order.index(m) if m in order else len(order))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for model in found.rows:
        table.add_column(escape(model), justify="right", overflow="fold")
    for metric in metrics:
        table.add_row(metric, *(_cell(row.get(metric)) for row in found.rows.values()))
    table.add_row("parameters", *(f"{found.parameters[m]:,}" if m in found.parameters else "" for m in found.rows))
    console.print(table)
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
    for key in ("lpips", "features"):
        if content[key]:
            said = content[key]
            said = said if isinstance(said, str) else f"{said['network']}: {said['file']}, SHA-256 {said['sha256']}"
            console.print(f"[dim]{key}: {escape(said)}[/]")
    if found.missing:
        reasons: dict[str, list[str]] = {}
        for metric, why in found.missing.items():
            reasons.setdefault(why, []).append(metric)
        said = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        console.print(f"[yellow]Not measured: {escape(said)}[/]")
    if output is not None:
        console.print(f"Pictures, originals in the first row: {escape(str(output / 'pictures.png'))}")


def _cell(spread: Any) -> str:
    if spread is None:
        return ""
    text = f"{spread.mean:.4g}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation:.2g}"
