"""`prismify doctor`: which engine computes the operator on which device, and why."""

from __future__ import annotations

from . import options as o
from .following import next_step
from .terminal import loading, one_line_errors


@one_line_errors
def doctor(json_: o.JsonOption = False) -> None:
    """Show which engine serves which device on this machine, and why others do not."""
    with loading():
        from ..kernels import engines_report
        from .measurements import print_engines
        from .render import print_json

        rows = engines_report()
    if json_:
        print_json({"engines": rows})
    else:
        print_engines(rows)
    next_step("bench", "8,256,32,32")
