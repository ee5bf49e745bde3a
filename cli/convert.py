"""`prismify convert SOURCE -o DIR`: a converted model on disk, with its report and a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .terminal import one_line_errors, steps


@one_line_errors
def convert(
    source: o.SourceArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to write.", show_default=False),
    ],
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
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Carry out this plan (from scan --plan-out) instead of a policy.",
            rich_help_panel="What is replaced",
        ),
    ] = None,
    input: o.InputOption = None,
    method: o.MethodOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the new weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an output folder that prismify wrote.")] = False,
    all_layers: o.AllLayersOption = False,
    json_: o.JsonOption = False,
) -> None:
    """Convert a model: write its folder with weights, plan, report and recipe. The source stays as it is."""
    arguments = o.parse_arguments(arg)
    with steps(6, quiet=json_) as begin:
        begin("loading libraries")
        import torch

        from ..checkpoint import Pipeline, Source, open_source, pipeline_report, save, save_pipeline
        from ..checkpoint.atomic import check_output
        from ..errors import PlanError, SourceError
        from ..graph import unwrap
        from ..plan import Plan
        from ..report import build_report
        from ..rewrite import carry_out
        from ..scanning import replan, scan_captured
        from .work import captured

        check_output(output, force=force)
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
        edited = Plan.load(plan) if plan is not None else None
        opened = open_source(source, model=model, arguments=arguments, allow=allow or (), trust=trust_pickle)
        torch.manual_seed(seed)

        def converted(part: Source) -> torch.nn.Module:
            begin(f"building {part.label}")
            built, capture = captured(unwrap(part.build()), input, method)
            begin(f"reading {type(built).__name__}")
            settled = scan_captured(built, capture, rules) if edited is None else replan(built, capture, edited)
            begin("converting and checking")
            carry_out(built, settled, capture)
            return built

        if isinstance(opened, Pipeline):
            if input or edited:
                raise SourceError("--input and --plan belong to one model: name the folder of a pipeline's part")
            models, refused = {}, []
            for name, part in opened.parts.items():
                try:
                    models[name] = converted(part)
                except PlanError as error:
                    refused.append(str(error))
            if not models:
                raise PlanError("; ".join(refused))
            begin(f"writing {output}")
            save_pipeline(opened, models, output, force=force)
            report = pipeline_report(opened, {n: m.prismify_plan for n, m in models.items()})
        else:
            result = converted(opened)
            begin(f"writing {output}")
            save(result, output, force=force, source=opened)
            report = build_report(result.prismify_plan, opened.label, opened.origin)
    from .render import print_json, print_report, print_written

    if json_:
        print_json({**report, "output": str(output)})
    else:
        print_report(report, all_layers=all_layers)
        print_written(output)
