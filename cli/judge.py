"""`prismify judge SAMPLES [OTHER ...] --data IMAGES`: what models made, measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .evaluate import DataSetOption, SizeOption, device_of, images_of
from .following import next_step, typed
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
from .sample import ClassOption, GuidanceOption, SamplerOption, StepsOption
from .terminal import Begin, one_line_errors, prose, steps

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Trust
    from ..diffusion.making import Wanted
    from ..metrics.sample_sets import SampleSet
    from ..metrics.samples import Measured
    from ..training.data import Stream
    from ..training.schema import Data

SAMPLES_HELP = (
    "A folder, tar or npz of pictures, such as `prismify sample` writes; or a denoiser (a run's folder, a model's), "
    "which makes --count pictures first."
)


@one_line_errors
def judge(
    call: typer.Context,
    samples: Annotated[list[str], typer.Argument(metavar="SAMPLES [OTHER ...]", help=SAMPLES_HELP, show_default=False)],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="IMAGES",
            help="What they should be like: a folder, tar or npz of images; or one image.",
            show_default=False,
        ),
    ],
    count: Annotated[
        int | None,
        typer.Option(
            "-n", "--count", metavar="N", min=1, help="Take so many pictures of each; else all that lie there."
        ),
    ] = None,
    features: FeaturesOption = None,
    lpips: LpipsOption = None,
    size: SizeOption = None,
    set_: DataSetOption = None,
    select: Annotated[str | None, typer.Option(metavar="PATTERN", help="Names of images to take, as 'test/*'.")] = None,
    data_count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Compare with so many of the images, drawn by --seed.")
    ] = None,
    splits: SplitsOption = 10,
    subsets: SubsetsOption = 100,
    subset_size: SubsetSizeOption = 1000,
    steps_: StepsOption = None,
    sampler: SamplerOption = "auto",
    class_: ClassOption = None,
    guidance: GuidanceOption = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of what is sampled, and of what is drawn.")] = 0,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures at a time.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: ResultsOption = None,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Measure samples: KID, IS, the Fréchet distance, precision and recall against a data set; or, against one image,
    patches, LPIPS diversity and per-pixel deviation. A metric whose weights are missing is named."""
    o.import_all(import_)
    with steps() as begin:
        begin("loading libraries")
        from ..checkpoint import Trust
        from ..diffusion.making import Wanted
        from ..metrics.judges import Judges, pixels_of
        from ..metrics.one_image import measure_one_image
        from ..metrics.samples import measure_samples

        where = device_of(device)
        if output is not None:
            check_results_place(output)
        judged, network = opened_judges(lpips, features, where)
        wanted = Wanted(
            count=count or 0, steps=steps_, sampler=sampler, seed=seed, label=class_, guidance=guidance,
            batch_size=batch_size,
        )  # fmt: skip
        trust = Trust(trust_code, tuple(allow or ()), trust_pickle, named=frozenset(samples))
        sets, runs = _sets(samples, count, wanted, trust, where, begin)
        images = images_of(data, runs, size, None, set_ or (), select, data_count, seed)
        images = _cut_alike(images, [one.size for one in sets.values()])
        reference = (pixels_of(batch, images.data.range) for batch in images.in_order(batch_size))
        judges = Judges(judged and judged[0], network, splits, subsets, subset_size)
        made = {name: one.batches for name, one in sets.items()}
        if len(images.images) == 1:
            found = measure_one_image(made, next(reference), judges, device=where, watch=begin)
        else:
            found = measure_samples(made, reference, judges, device=where, watch=begin)
    content = {
        "data": plain_data(data, select, found.references, images, seed),
        "count": found.count,
        "samples": {name: _plain_set(one) for name, one in sets.items()},
        **plain_judges(judged, network),
        "models": {name: plain_row(row) for name, row in found.rows.items()},
        "reference": plain_row(found.of_reference),
        "missing": found.missing,
    }
    if output is not None:
        write_results(output, content, found.pictures)
    from .render import print_json

    if json_:
        print_json(content)
    else:
        _print(found, content, output)
    words = typed(call, ("json_", "output"))
    if features is None and found.references > 1:
        next_step("judge", *words, "--features", "FILE")
    elif output is None:
        next_step("judge", *words, "-o", "DIR")
    else:
        next_step("sample", "DIR", "-o", "OTHER", "--steps", "N")


def _sets(
    names: Sequence[str], count: int | None, wanted: Wanted, trust: Trust, device: torch.device, begin: Begin
) -> tuple[dict[str, SampleSet], dict[str, Data]]:
    """What each name holds or makes, all of one N; and how the runs among them saw images."""
    from ..diffusion.opening import is_denoiser, open_denoiser
    from ..errors import RecipeError
    from ..metrics.sample_sets import equal_count, made_samples, read_samples
    from ..training.finished import run_of, run_recipe

    sets: dict[str, SampleSet] = {}
    runs: dict[str, Data] = {}
    denoisers = [name for name in names if is_denoiser(name)]
    for name in (name for name in names if name not in denoisers):
        begin(f"opening {name}")
        sets[name] = read_samples(name, count, seed=wanted.seed, batch_size=wanted.batch_size)
    if not sets and count is None:
        raise RecipeError(f"{denoisers[0]} makes as many pictures as you say: give --count N")
    if sets:
        equal_count((name, one.count) for name, one in sets.items())
        wanted = replace(wanted, count=next(iter(sets.values())).count)
    for name in denoisers:
        begin(f"opening {name}")
        opened = open_denoiser(name, trust)
        if (run := run_of(Path(name))) is not None:
            runs[name] = run_recipe(run).data

        def watch(done: int, all_steps: int, name: str = name) -> None:
            begin(f"sampling {name}: {done} of {all_steps} steps")

        sets[name] = made_samples(opened, wanted, device, watch)
    return {name: sets[name] for name in names}, runs


def _cut_alike(images: Stream, sizes: Sequence[tuple[int, int]]) -> Stream:
    """A data set cut as square pictures are, where nothing else is said; one image stays whole."""
    from ..training.data import Stream

    side = sizes[0][0]
    if len(images.images) == 1 or images.data.size is not None or any(size != (side, side) for size in sizes):
        return images
    return Stream(images.images, replace(images.data, size=side), images.seed)


def _plain_set(samples: SampleSet) -> dict[str, Any]:
    width, height = samples.size
    return {"width": width, "height": height, "made_by": samples.made_by, "left_out": list(samples.left_out)}


def _print(found: Measured, content: dict[str, Any], output: Path | None) -> None:
    from rich.markup import escape

    from ..training.data import passed_over_text

    console = prose()
    print_rows(console, {**({"(data)": found.of_reference} if found.of_reference else {}), **found.rows})
    images, size = escape(str(content["data"]["path"])), content["data"]["size"]
    cut = f" cut to {size}x{size}" if size is not None else ""
    if found.references == 1:
        console.print(f"N={found.count:,} pictures each, against the image {images}{cut}; ± over pictures.")
    else:
        against = f"{found.references:,} images of {images}{cut}"
        console.print(f"N={found.count:,} pictures each, against {against}; ± over splits or subsets.")
    passed = passed_over_text(content["data"]["passed_over"])
    if passed:
        console.print(f"[dim]Passed over: {escape(passed)}[/]")
    for name, facts in content["samples"].items():
        console.print(f"[dim]{escape(name)}: {escape(_said(facts))}[/]")
    print_judges(console, content)
    print_missing(console, found.missing)
    if output is not None:
        console.print(f"Pictures, the data in the first row: {escape(str(output / 'pictures.png'))}")


def _said(facts: Mapping[str, Any]) -> str:
    """How pictures were made, in words."""
    said, made_by = [f"{facts['width']}x{facts['height']}"], facts["made_by"]
    if made_by:
        said.append(f"{made_by.get('steps')} steps of {made_by.get('sampler')}, seed {made_by.get('seed')}")
        said += [f"by {made_by['weights']}"] if made_by.get("weights") else []
        said += [f"class {made_by['label']}"] if made_by.get("label") is not None else []
        said += [f"guidance {made_by['guidance']}"] if made_by.get("guidance", 1) != 1 else []
    left_out = facts["left_out"]
    if left_out:
        more = f" and {len(left_out) - 2} more" if len(left_out) > 2 else ""
        said.append(f"left out {', '.join(left_out[:2])}{more}")
    return "; ".join(said)
