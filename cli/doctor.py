"""`prismify doctor`: which engine computes the operator on which device, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o
from .following import next_step
from .terminal import one_line_errors, steps


@one_line_errors
def doctor(
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the CPU kernels now and keep them on disk, where a container is built or a home is shared.",
        ),
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="What --compile compiles for: float32, bfloat16, float16 or float64.")
    ] = "float32",
    json_: o.JsonOption = False,
) -> None:
    """Show which engine serves which device on this machine, and why others do not."""
    with steps() as begin:
        begin("loading libraries")
        from ..kernels import engines_report
        from .measurements import print_compiled, print_engines
        from .render import print_json

        rows = engines_report()
        compiled = None
        if compile_:
            from ..bench import compile_ahead

            compiled = compile_ahead(o.element_type(dtype), begin)
    if json_:
        print_json({"engines": rows} if compiled is None else {"engines": rows, "compiled_seconds": compiled})
    else:
        print_engines(rows)
        if compiled is not None:
            print_compiled(compiled)
    next_step("bench", "8,256,32,32")
