"""`prismify doctor`: which engine computes the operator on which device, and why."""

from __future__ import annotations

from . import options as o
from .terminal import one_line_errors


@one_line_errors
def doctor(json_: o.JsonOption = False) -> None:
    """Show which engine serves which device on this machine, and why others do not."""
    from ..kernels import engines_report
    from .measurements import print_engines
    from .render import print_json

    rows = engines_report()
    if json_:
        print_json({"engines": rows})
    else:
        print_engines(rows)
