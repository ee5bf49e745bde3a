"""`prismify scan SOURCE`: every layer, what would replace it, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .terminal import one_line_errors, steps


@one_line_errors
def scan(
    source: o.SourceArgument,
    model: o.ModelOption = None,
    arg: o.ArgOption = None,
    policy: o.PolicyOption = "paper",
    topology: o.TopologyOption = "zero",
    depth: o.DepthOption = None,
    feed_forward: o.FeedForwardOption = False,
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
    arguments = o.parse_arguments(arg)
    with steps(4, quiet=json_) as begin:
        begin("loading libraries")
        from ..checkpoint import Pipeline, Source, open_source, pipeline_report
        from ..errors import SourceError
        from ..plan import Plan
        from ..report import build_report
        from ..scanning import scan_captured
        from .work import build_for_scan, captured

        rules = o.make_policy(
            name=policy,
            topology=topology,
            channel_kernel_size=channel_kernel,
            bias=bias,
            depth=depth,
            feed_forward=feed_forward,
            min_width=min_width,
            min_volume=min_volume,
            include=include,
            exclude=exclude,
        )
        opened = open_source(source, model=model, arguments=arguments, allow=allow or (), trust=trust_pickle)

        def plan_of(part: Source) -> Plan:
            begin(f"building {part.label}")
            built = build_for_scan(part)
            begin(f"reading {type(built).__name__}")
            built, capture = captured(built, input, method, part.build)
            return scan_captured(built, capture, rules)

        if isinstance(opened, Pipeline):
            if input or plan_out:
                raise SourceError("--input and --plan-out belong to one model: name the folder of a pipeline's part")
            report = pipeline_report(opened, {name: plan_of(part) for name, part in opened.parts.items()})
        else:
            plan = plan_of(opened)
            report = build_report(plan, opened.label, opened.origin)
            if plan_out is not None:
                plan.save(plan_out)
    from .render import print_json, print_report

    if json_:
        print_json(report)
    else:
        print_report(report, all_layers=all_layers)
        if plan_out is not None:
            print(f"plan written to {plan_out}", file=sys.stderr)
