"""`prismify bench TARGET`: how fast a layer or a model is against what it replaces, on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SourceError
from . import options as o
from .following import after_conversion, next_step, typed
from .terminal import Begin, one_line_errors, steps

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from ..graph import Capture, EntryPoint, ExampleInputs
    from ..plan import Plan, Policy
    from ..plan.policy import OwnPolicy

_ONE_MODEL = "bench measures one model: name the folder of a pipeline's part"

#: What a person allowed, as names of parameters: what follows needs it as well.
_TRUSTING = ("import_", "trust_code", "allow", "trust_pickle")


@one_line_errors
def bench(
    call: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE|SOURCE|DIR",
            help="A feature map B,C,H,W such as 8,256,32,32, any SOURCE that scan takes, or a converted folder.",
            show_default=False,
        ),
    ],
    model: o.ModelOption = None,
    arg: o.ArgOption = None,
    policy: o.PolicyOption = "paper",
    original: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="What a converted folder was made from, where it cannot say itself."),
    ] = None,
    input: o.InputOption = None,
    method: o.MethodOption = None,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of a feature map: float32, bfloat16, float16 or float64.")] = "float32",
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; torch's choice by default.")] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="Time for each measurement.")] = 1.0,
    json_: o.JsonOption = False,
) -> None:
    """Measure a layer or a model against what it replaces: forward, and forward with backward."""
    wanted = o.wanted({**locals(), "source": target})
    with steps() as begin:
        begin("loading libraries")
        result = _bench(wanted, original, device, dtype, threads, seconds, begin)
    from .measurements import print_bench
    from .render import print_json

    (print_json if json_ else print_bench)(result)
    if _shape(target) is not None:
        next_step("bench", "SOURCE")
    elif (Path(target) / "prismify.json").is_file():
        after = after_conversion(Path(target), None)
        trusting = typed(call, [p.name for p in call.command.params if p.name not in _TRUSTING])
        next_step(*((*after[:2], *trusting, *after[2:]) if after[0] == "train" else ("report", target)))
    else:
        measured = ("original", "device", "dtype", "threads", "seconds", "json_")
        next_step("convert", *typed(call, measured), "-o", "DIR")


def _bench(
    wanted: o.Wanted, original: str | None, device: str, dtype: str, threads: int | None, seconds: float, begin: Begin
) -> dict[str, Any]:
    import torch

    from ..bench import bench_models, bench_shape
    from ..checkpoint.shipped import folder_of

    policy = wanted.policy()
    where = _device(device)
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    shape = _shape(wanted.source)
    if shape is not None:
        begin(f"measuring {wanted.source}")
        return bench_shape(shape, where, o.element_type(dtype), seconds)
    folder = folder_of(wanted.source)
    if (folder / "prismify.json").is_file():
        pair = _from_folder(folder, wanted, original, begin)
    elif original is not None:
        raise SourceError(f"--original belongs to a folder that prismify wrote; {folder} is none")
    else:
        pair = _from_source(wanted, policy, begin)
    if pair.inputs is None:
        raise SourceError(f"{wanted.source} cannot be run: give --input")
    begin("measuring")
    report = bench_models(pair.original, pair.converted, pair.inputs, where, seconds, method=pair.method)
    return {"model": pair.plan.model, "source": wanted.source, "policy": pair.plan.policy["name"], **report}


@dataclass(frozen=True)
class _Pair:
    """A model and its conversion, and what to run them on."""

    original: nn.Module
    converted: nn.Module
    plan: Plan
    capture: Capture

    @property
    def _entry(self) -> EntryPoint | None:
        return next((entry for entry in self.capture.entries if entry.inputs is not None), None)

    @property
    def inputs(self) -> ExampleInputs | None:
        return self._entry.inputs if self._entry is not None else None

    @property
    def method(self) -> str:
        return self._entry.method if self._entry is not None else "forward"


def _from_source(wanted: o.Wanted, policy: Policy | OwnPolicy, begin: Begin) -> _Pair:
    from torch import nn

    from ..rewrite import carry_out_program, converted_copy
    from ..scanning import scan_captured
    from .work import as_module, captured

    built = _built(wanted, begin)
    begin(f"reading {type(built).__name__}")
    original, capture = captured(built, wanted)
    plan = scan_captured(original, capture, policy)
    begin("converting")
    if isinstance(built, nn.Module):
        return _Pair(original, converted_copy(original, plan, capture, check=False), plan, capture)
    return _Pair(original, as_module(carry_out_program(built, plan, None)), plan, capture)


def _from_folder(folder: Path, wanted: o.Wanted, original: str | None, begin: Begin) -> _Pair:
    """A converted folder, and the architecture that it was made from."""
    from ..checkpoint import build_original, load
    from .work import as_module, captured

    begin(f"loading {folder}")
    converted = load(folder, allow=wanted.allow, trust_code=wanted.trust_code)
    plan = getattr(converted, "prismify_plan", None)
    if plan is None:
        raise SourceError(_ONE_MODEL)
    converted = as_module(converted)
    begin("building the original")
    if original is not None:
        built = _built(replace(wanted, source=original), begin)
    else:
        built = build_original(folder, allow=wanted.allow, trust_code=wanted.trust_code)
    begin(f"reading {type(built).__name__}")
    model, capture = captured(built, wanted)
    return _Pair(model, converted, plan, capture)


def _built(wanted: o.Wanted, begin: Begin) -> nn.Module | ExportedProgram:
    from torch import nn

    from ..checkpoint import Pipeline
    from ..graph import unwrap
    from .work import opened

    source = opened(wanted)
    if isinstance(source, Pipeline):
        raise SourceError(_ONE_MODEL)
    begin(f"building {source.label}")
    built = source.build()
    return unwrap(built) if isinstance(built, nn.Module) else built


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
