"""`prismify bench TARGET`: how fast a layer or a model is against what it replaces, on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options as o
from .terminal import Begin, one_line_errors, steps


@one_line_errors
def bench(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE|SOURCE",
            help="A feature map B,C,H,W such as 8,256,32,32, or any SOURCE that scan takes.",
            show_default=False,
        ),
    ],
    model: o.ModelOption = None,
    arg: o.ArgOption = None,
    policy: o.PolicyOption = "paper",
    input: o.InputOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    trust_code: o.TrustCodeOption = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of a feature map: float32, bfloat16, float16 or float64.")] = "float32",
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; torch's choice by default.")] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="Time for each measurement.")] = 1.0,
    json_: o.JsonOption = False,
) -> None:
    """Measure a layer or a model against what it replaces: forward, and forward with backward."""
    wanted = o.Wanted(
        source=target,
        model=model,
        arguments=o.parse_arguments(arg),
        allow=tuple(allow or ()),
        trust_pickle=trust_pickle,
        trust_code=trust_code,
        inputs=tuple(input or ()),
        methods=(),
        policy=o.policy_of(name=policy),
    )
    with steps() as begin:
        begin("loading libraries")
        result = _bench(wanted, device, dtype, threads, seconds, begin)
    from .measurements import print_bench
    from .render import print_json

    (print_json if json_ else print_bench)(result)


def _bench(
    wanted: o.Wanted, device: str, dtype: str, threads: int | None, seconds: float, begin: Begin
) -> dict[str, Any]:
    import torch

    from ..bench import bench_models, bench_shape
    from ..checkpoint import Pipeline
    from ..errors import SourceError
    from ..rewrite import convert
    from ..scanning import scan_captured
    from .work import captured, opened

    policy = wanted.policy()
    where = _device(device)
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    shape = _shape(wanted.source)
    if shape is not None:
        begin(f"measuring {wanted.source}")
        return bench_shape(shape, where, _dtype(dtype), seconds)
    source = opened(wanted)
    if isinstance(source, Pipeline):
        raise SourceError("bench measures one model: name the folder of a pipeline's part")
    begin(f"building {source.label}")
    original = source.build()
    begin(f"reading {type(original).__name__}")
    original, capture = captured(original, wanted)
    plan = scan_captured(original, capture, policy)
    inputs = next((entry.inputs for entry in capture.entries if entry.inputs is not None), None)
    if inputs is None:
        raise SourceError(f"{wanted.source} cannot be run: give --input")
    begin("converting")
    converted = convert(original, plan, args=inputs.args, kwargs=inputs.kwargs, check=False)
    begin("measuring")
    report = bench_models(original, converted, inputs, where, seconds)
    return {"model": plan.model, "source": source.label, "policy": plan.policy["name"], **report}


def _shape(text: str) -> tuple[int, ...] | None:
    parts = text.replace("x", ",").split(",")
    return tuple(int(part) for part in parts) if len(parts) > 1 and all(p.isdigit() for p in parts) else None


def _device(name: str) -> Any:
    import torch

    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise typer.BadParameter(f"{name!r} is no device such as cpu or cuda", param_hint="--device") from error
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and not torch.cuda.is_available()):
        raise typer.BadParameter(f"there is no {name} on this machine", param_hint="--device")
    return found


def _dtype(name: str) -> Any:
    import torch

    known = ("float32", "bfloat16", "float16", "float64")
    if name not in known:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint="--dtype")
    return getattr(torch, name)
