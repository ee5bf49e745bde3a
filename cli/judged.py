"""What `evaluate` and `judge` share: who judges, where results go, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ..metrics.distances import Spread
    from ..metrics.networks import FeatureNetwork
    from ..training.data import Stream
    from ..training.losses import LPIPS

LpipsOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of LPIPS (alex or vgg).")]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Weights of a feature network: FID's InceptionV3, a CIFAR-10 ResNet, or MNIST's LeNet-5."
    ),
]
SplitsOption = Annotated[int, typer.Option(metavar="N", min=1, help="Splits of the inception score.")]
SubsetsOption = Annotated[int, typer.Option(metavar="N", min=1, help="Subsets of KID.")]
SubsetSizeOption = Annotated[int, typer.Option(metavar="N", min=10, help="Images in a subset of KID.")]
ResultsOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Write evaluation.json and pictures.png here."),
]


def opened_judges(
    lpips: Path | None, features: Path | None, device: torch.device
) -> tuple[tuple[LPIPS, str] | None, FeatureNetwork | None]:
    """LPIPS and a line that says which, and the feature network; None where no file is named."""
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


def plain_judges(judged: tuple[LPIPS, str] | None, network: FeatureNetwork | None) -> dict[str, Any]:
    """Who judges, as JSON."""
    features = network and {"network": network.name, "file": network.file, "sha256": network.sha256}
    return {"lpips": judged and judged[1], "features": features}


def plain_row(row: Mapping[str, Spread]) -> dict[str, Any]:
    """Metric -> measurement, as JSON."""
    return {metric: {"mean": s.mean, "deviation": s.deviation, "over": s.over} for metric, s in row.items()}


def check_results_place(output: Path) -> None:
    """See that the results take the place of nothing but earlier ones, before hours are spent on them."""
    from ..training.pictures import check_own_table, check_replaceable

    check_replaceable(output, [output / "pictures.png"])
    check_own_table(output / "evaluation.json", {"models", "data"})


def plain_data(path: str, select: str | None, count: int, images: Stream, seed: int) -> dict[str, Any]:
    """What models were measured on, as plain data.

    Args:
        count: how many of the images.
    """
    return {
        "path": path,
        "select": select,
        "images": count,
        "passed_over": dict(images.images.passed_over),
        "size": images.data.size,
        "seed": seed,
    }


def write_results(output: Path, content: dict[str, Any], pictures: Any) -> None:
    """Write evaluation.json and pictures.png."""
    from ..checkpoint.atomic import whole_file
    from ..checkpoint.manifest import write_json
    from ..training.pictures import write_png

    output.mkdir(parents=True, exist_ok=True)
    with whole_file(output / "evaluation.json") as draft:
        write_json(draft, content)
    write_png(output / "pictures.png", pictures)


def print_rows(
    console: Console, rows: Mapping[str, Mapping[str, Spread]], more: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """A table with a row a metric and a column a model.

    Args:
        more: rows of other facts: name -> model -> text.
    """
    from rich.markup import escape
    from rich.table import Table

    metrics = list(dict.fromkeys(m for row in rows.values() for m in row))
    order = ["PSNR", "SSIM", "LPIPS"]
    metrics.sort(key=lambda m: order.index(m) if m in order else len(order))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for model in rows:
        table.add_column(escape(model), justify="right", overflow="fold")
    for metric in metrics:
        table.add_row(escape(metric), *(_cell(row.get(metric)) for row in rows.values()))
    for name, texts in (more or {}).items():
        table.add_row(name, *(texts.get(model, "") for model in rows))
    console.print(table)


def print_judges(console: Console, content: Mapping[str, Any]) -> None:
    """Which files judged."""
    from rich.markup import escape

    for key in ("lpips", "features"):
        said = content[key]
        if said:
            said = said if isinstance(said, str) else f"{said['network']}: {said['file']}, SHA-256 {said['sha256']}"
            console.print(f"[dim]{key}: {escape(said)}[/]")


def print_missing(console: Console, missing: Mapping[str, str]) -> None:
    """What was not measured, and why."""
    from rich.markup import escape

    reasons: dict[str, list[str]] = {}
    for metric, why in missing.items():
        reasons.setdefault(why, []).append(metric)
    said = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    if said:
        console.print(f"[yellow]Not measured: {escape(said)}[/]")


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return ""
    text = f"{spread.mean:.4g}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation:.2g}"
