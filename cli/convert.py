"""`prismify convert SOURCE -o DIR`: a converted model on disk, with its report and a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .following import after_conversion, next_step, typed
from .terminal import Begin, one_line_errors, steps

if TYPE_CHECKING:
    from ..checkpoint import Source
    from ..plan import Plan, Policy
    from ..plan.policy import OwnPolicy


@one_line_errors
def convert(
    call: typer.Context,
    source: o.SourceArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to write.", show_default=False),
    ],
    model: o.ModelOption = None,
    arg: o.ArgOption = None,
    config: o.ConfigOption = None,
    prefix: o.PrefixOption = None,
    ema: o.EmaOption = False,
    variant: o.VariantOption = None,
    policy: o.PolicyOption = "paper",
    topology: o.TopologyOption = "zero",
    depth: o.DepthOption = None,
    share: o.ShareOption = None,
    width: o.WidthOption = None,
    multiple: o.MultipleOption = 1,
    channel_dilation: o.ChannelDilationOption = False,
    operator: o.OperatorOption = None,
    option: o.OperatorOptionOption = None,
    feed_forward: o.FeedForwardOption = False,
    context: o.ContextOption = False,
    channel_kernel: o.ChannelKernelOption = 3,
    bias: o.BiasOption = "scalar",
    include: o.IncludeOption = None,
    exclude: o.ExcludeOption = None,
    min_width: o.MinWidthOption = 8,
    min_volume: o.MinVolumeOption = 16,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Carry out this plan (from scan --plan-out, or search) instead of a policy.",
            rich_help_panel="What is replaced",
        ),
    ] = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only",
            help="Write only the plan, as the JSON file --output, to edit and give to --plan.",
            rich_help_panel="What is replaced",
        ),
    ] = False,
    input: o.InputOption = None,
    method: o.MethodOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Seed of the new weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an output folder that prismify wrote.")] = False,
    bench: Annotated[
        bool,
        typer.Option("--bench", help="Also measure the time of a pass before and after (takes seconds to minutes)."),
    ] = False,
    all_layers: o.AllLayersOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Convert a model: write its folder with weights, plan, report and recipe. The source stays as it is."""
    wanted = o.wanted(locals())
    with steps() as begin:
        begin("loading libraries")
        if plan_only:
            report = _plan_only(wanted, output, plan, force, begin)
        else:
            report = _convert(wanted, output, plan, seed, force, bench, begin)
    from ..checkpoint.manifest import read_manifest
    from .render import print_json, print_report, print_written

    if json_:
        print_json({**report, "output": str(output)})
    else:
        print_report(report, all_layers=all_layers)
        if plan_only:
            print(f"plan written to {output}: edit it, then convert with --plan {output}", file=sys.stderr)
        else:
            print_written(output, read_manifest(output))
    if plan_only:
        without = ("json_", "all_layers", "plan_only", "output", "force", *o.POLICY_OPTIONS)
        next_step("convert", *typed(call, without), "--plan", output, "-o", "DIR")
    else:
        next_step(*after_conversion(output, read_manifest(output).get("parts"), ours=True))


def _plan_only(wanted: o.Wanted, output: Path, plan: Path | None, force: bool, begin: Begin) -> dict[str, Any]:
    """Write the plan of a conversion that is not made; returns its report."""
    from ..errors import OutputError, PlanError
    from .scan import scan_report

    if plan is not None:
        raise PlanError("--plan-only writes a plan: drop --plan")
    if output.is_dir() or (output.exists() and not force):
        raise OutputError(f"{output} exists; --plan-only writes a JSON file: choose another name, or add --force")
    return scan_report(wanted, output, begin)


def _convert(
    wanted: o.Wanted, output: Path, plan: Path | None, seed: int, force: bool, bench: bool, begin: Begin
) -> dict[str, Any]:
    """Write the output folder; returns its report."""
    import torch

    from ..checkpoint import Pipeline, save, save_pipeline
    from ..checkpoint.atomic import check_output
    from ..checkpoint.manifest import read_report
    from ..errors import PlanError, SourceError
    from ..plan import Plan, Policy
    from .work import opened

    check_output(output, force=force, source=Path(wanted.source))
    policy = wanted.policy()
    edited = Plan.load(plan) if plan is not None else None
    if edited is not None and policy != Policy():
        raise PlanError("--plan says what is replaced: drop --policy and the other options about that")
    source = opened(wanted)
    torch.manual_seed(seed)
    if not isinstance(source, Pipeline):
        model, latency = _converted(source, wanted, policy, edited, bench, begin, plan)
        begin(f"writing {output}")
        save(model, output, force=force, source=source, latency=latency)
        return read_report(output)
    if wanted.inputs or edited:
        raise SourceError("--input and --plan belong to one model: name the folder of a pipeline's part")
    models, latencies, refused = {}, {}, []
    for name, part in source.parts.items():
        try:
            models[name], latencies[name] = _converted(part, wanted, policy, None, bench, begin)
        except PlanError as error:
            refused.append(f"{name}: {error}")
    if not models:
        raise PlanError("; ".join(refused))
    begin(f"writing {output}")
    save_pipeline(source, models, output, force=force, latency=latencies)
    return read_report(output)


def _converted(
    part: Source,
    wanted: o.Wanted,
    policy: Policy | OwnPolicy,
    edited: Plan | None,
    bench: bool,
    begin: Begin,
    file: Path | None = None,
) -> tuple[Any, dict[str, Any] | None]:
    """One converted model, and what was measured of it where that was asked for."""
    import torch
    from torch import nn

    from ..bench import latency
    from ..checkpoint.streaming import draw_new_weights
    from ..graph import unwrap
    from ..rewrite import carry_out, carry_out_program, converted_copy
    from ..scanning import replan, scan_captured
    from ..search import put_weights
    from .work import as_module, built_for_conversion, captured, with_notes

    begin(f"building {part.label}")
    built = built_for_conversion(part, wanted) if not bench else part.build()
    model, capture = captured(unwrap(built) if isinstance(built, nn.Module) else built, wanted)
    begin(f"deciding about {type(model).__name__}")
    plan = scan_captured(model, capture, policy) if edited is None else replan(model, capture, edited)
    plan = with_notes(plan, part)
    begin(f"converting and checking {type(model).__name__}, compiling what is new here")
    if not isinstance(built, nn.Module):
        program = carry_out_program(built, plan, capture)
        if not bench:
            return program, None
        begin(f"measuring {type(model).__name__}")
        return program, latency(model, as_module(program), plan, capture, torch.device("cpu"))
    if not bench:
        carry_out(model, plan, capture)
        draw_new_weights(model)
        put_weights(model, file)
        return model, None
    converted = converted_copy(model, plan, capture)
    put_weights(converted, file)
    begin(f"measuring {type(model).__name__}")
    return converted, latency(model, converted, plan, capture, torch.device("cpu"))
