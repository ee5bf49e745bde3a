"""`prismify export DIR -o model.onnx`: a model's method as a file that other runtimes run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import PrismifyError, SourceError
from . import options as o
from .evaluate import MODEL_HELP
from .following import next_step
from .terminal import Begin, one_line_errors, steps
from .usage import misused

if TYPE_CHECKING:
    from torch import nn

    from ..export import Written
    from ..graph import ExampleInputs
    from ..kernels.torch.forms import Form

_ONNX_ONLY = ("form", "opset")
_SUFFIXES = (".onnx", ".pt2")


@one_line_errors
def export(
    call: typer.Context,
    source: Annotated[str, typer.Argument(metavar="DIR|SOURCE", help=MODEL_HELP, show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="model.onnx, or model.pt2 for torch.", show_default=False),
    ],
    method: Annotated[str, typer.Option(help="forward, or another that takes tensors: encode, decode.")] = "forward",
    model: o.ModelOption = None,
    arg: o.ArgOption = None,
    input: o.InputOption = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Leave batch, height and width open.")] = False,
    opset: Annotated[
        int | None, typer.Option(metavar="N", min=18, help="Of ONNX; torch's choice by default.", show_default=False)
    ] = None,
    form: Annotated[
        str, typer.Option(help="How ONNX has the operators: auto (by shape), blocks, depthwise, dense or conv3d.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads of the measurement.")] = None,
    seconds: Annotated[float, typer.Option(metavar="S", min=0, help="For each measurement; 0 for none.")] = 2.0,
    allow: o.AllowOption = None,
    trust_pickle: o.TrustOption = False,
    trust_code: o.TrustCodeOption = False,
    import_: o.ImportOption = None,
    json_: o.JsonOption = False,
) -> None:
    """Write a model as ONNX, compared with the model and timed beside the dense one; or for torch.export.load."""
    if output.suffix not in _SUFFIXES:
        raise typer.BadParameter(f"{output.name} ends with neither of {', '.join(_SUFFIXES)}", param_hint="--output")
    asked = [name for name in _ONNX_ONLY if (told := call.get_parameter_source(name)) and told.name == "COMMANDLINE"]
    if output.suffix == ".pt2" and asked:
        misused(f"--{asked[0]} is for .onnx files; {output.name} is torch's own")
    wanted = o.wanted({**locals(), "method": [method], "policy": "paper"})
    with steps() as begin:
        begin("loading libraries")
        from ..export import Entry, write_onnx, write_program
        from ..kernels.torch.forms import FORMS
        from ..search.outcome import folder_for

        if form not in FORMS:
            raise typer.BadParameter(f"{form!r} is not one of {', '.join(FORMS)}", param_hint="--form")
        folder_for(output)
        begin(f"opening {source}")
        built = _opened(wanted)
        entry = Entry(built, method, _inputs(built, wanted, method, begin))
        begin(f"writing {output}")
        if output.suffix == ".pt2":
            report: dict[str, Any] = {
                "file": str(output),
                "bytes": write_program(entry, output, dynamic=dynamic),
            }
        else:
            written = write_onnx(entry, output, form=form, dynamic=dynamic, opset=opset)
            report = {**written.as_data(), **_measured(written, wanted, form, threads, seconds, begin)}
        report = {"model": type(built).__name__, "source": source, "method": method, **report}
    from .measurements import print_export
    from .render import print_json

    (print_json if json_ else print_export)(report)
    # A folder that was converted has an original to be measured beside.
    next_step("bench" if (Path(source) / "prismify.json").is_file() else "report", source)


def _opened(wanted: o.Wanted) -> nn.Module:
    from ..checkpoint import Trust
    from ..training.finished import run_model, run_of
    from ..training.models import open_model
    from ..training.schema import ModelSource

    named = frozenset({wanted.source, *([wanted.model] if wanted.model else [])})
    trust = Trust(wanted.trust_code, tuple(wanted.allow), wanted.trust_pickle, named=named)
    if run_of(Path(wanted.source)) is not None:
        model, _ = run_model(Path(wanted.source), trust)
    else:
        model = open_model(
            ModelSource(source=wanted.source, architecture=wanted.model, arguments=wanted.arguments), trust
        )
    return model.eval().requires_grad_(False)


def _inputs(model: nn.Module, wanted: o.Wanted, method: str, begin: Begin) -> ExampleInputs:
    from .work import captured

    begin(f"reading {type(model).__name__}")
    _, capture = captured(model, wanted)
    entry = next((entry for entry in capture.entries if entry.method == method), None)
    if entry is None or entry.inputs is None:
        raise SourceError(f"{wanted.source}: no example inputs for {method} were found that run: give --input")
    return entry.inputs


def _measured(
    written: Written, wanted: o.Wanted, form: Form, threads: int | None, seconds: float, begin: Begin
) -> dict[str, Any]:
    """How far the file is from the model, and how fast beside the dense original's; or why that is not known."""
    from ..export import largest_difference, times

    begin("comparing")
    try:
        found: dict[str, Any] = {"differences": largest_difference(written)}
    except PrismifyError as error:
        return {"not_compared": str(error)}
    if not seconds:
        return found
    begin("building the original")
    with tempfile.TemporaryDirectory() as scratch:
        files = {"exported": written}
        try:
            files["dense"] = _dense(written, wanted, form, Path(scratch) / "dense.onnx")
        except PrismifyError as error:
            found["no_dense"] = str(error)
        begin("measuring")
        timings = times(files, threads, seconds)
    found["times"] = {name: timing.to_dict() for name, timing in timings.items()}
    if "dense" in timings:
        found["times_dense"] = timings["exported"].times_faster(timings["dense"])
    return {**found, "threads": threads}


def _dense(written: Written, wanted: o.Wanted, form: Form, path: Path) -> Written:
    """The original's architecture as ONNX, on the same inputs."""
    from torch import nn

    from ..checkpoint import build_original
    from ..checkpoint.shipped import folder_of
    from ..export import Entry, write_onnx

    folder = folder_of(wanted.source)
    if not (folder / "prismify.json").is_file():
        raise SourceError(f"{folder} is no converted folder, whose original it would be measured beside")
    original = build_original(folder, allow=wanted.allow, trust_code=wanted.trust_code)
    if not isinstance(original, nn.Module):
        raise SourceError("the original is an exported program")
    entry = Entry(original.float().requires_grad_(False), written.entry.method, written.entry.given)
    dynamic = any(isinstance(axis, str) for axes in written.inputs.values() for axis in axes)
    return write_onnx(entry, path, form=form, dynamic=dynamic, opset=written.opset)
