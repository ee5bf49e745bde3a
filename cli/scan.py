"""`prismify scan SOURCE`: every layer, what would replace it, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o
from .following import next_step, typed
from .terminal import Begin, one_line_errors, steps


@one_line_errors
def scan(
    call: typer.Context,
    source: o.SourceArgument,
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
    input: o.InputOption = None,
    method: o.MethodOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    plan_out: Annotated[
        Path | None,
        typer.Option(
            "--plan-out",
            metavar="FILE",
            help="Write the plan as JSON, to edit and give to convert --plan.",
            rich_help_panel="Output",
        ),
    ] = None,
    all_layers: o.AllLayersOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Show every layer of a model, what would replace it, and why. Nothing is changed or downloaded."""
    wanted = o.wanted(locals())
    with steps() as begin:
        begin("loading libraries")
        report = scan_report(wanted, plan_out, begin)
    from .render import print_json, print_report

    if json_:
        print_json(report)
    else:
        print_report(report, all_layers=all_layers)
        if plan_out is not None:
            print(f"plan written to {plan_out}", file=sys.stderr)
    words = typed(call, ("json_", "all_layers", "plan_out", *(o.POLICY_OPTIONS if plan_out is not None else ())))
    models = report.get("parts", {"": report}).values()  # a pipeline's report has its totals and one for each part
    if not any(one["replaced"]["layers"] for one in models) and policy == "paper" and plan_out is None:
        next_step("scan", *words, "--policy", "volumes")  # nothing to convert yet
    else:
        next_step("convert", *words, *(("--plan", plan_out) if plan_out is not None else ()), "-o", "DIR")


def scan_report(wanted: o.Wanted, plan_out: Path | None, begin: Begin) -> dict[str, Any]:
    """The report; the plan goes to `plan_out` where one is wanted."""
    from ..checkpoint import Pipeline, Source, pipeline_report
    from ..checkpoint.atomic import whole_file
    from ..checkpoint.manifest import write_json
    from ..errors import SourceError
    from ..plan import Plan
    from ..scanning import build_report, scan_captured
    from .work import build_for_scan, captured, check_plan_place, opened, with_notes

    policy = wanted.policy()
    if plan_out is not None:
        check_plan_place(plan_out)
    source = opened(wanted)

    def plan_of(part: Source) -> Plan:
        begin(f"building {part.label}")
        model = build_for_scan(part)
        begin(f"reading {type(model).__name__}")
        model, capture = captured(model, wanted, part.build)
        return with_notes(scan_captured(model, capture, policy), part)

    if isinstance(source, Pipeline):
        if wanted.inputs or plan_out:
            raise SourceError("--input and --plan-out belong to one model: name the folder of a pipeline's part")
        return pipeline_report(source, {name: plan_of(part) for name, part in source.parts.items()})
    plan = plan_of(source)
    if plan_out is not None:
        with whole_file(plan_out) as draft:
            write_json(draft, plan.to_dict())
    return build_report(plan, source.label, source.origin)
