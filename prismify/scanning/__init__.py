"""What is told: `scan` goes from a model to its plan, and the report says a plan in numbers and words.

The room is not called `scan`, which is its function's name in `prismify`.
"""

from .examples import captured_for
from .report import (
    RULES,
    build_report,
    excluded_text,
    human,
    human_bytes,
    inputs_text,
    join_reports,
    kept_groups,
    operator_text,
    ratio_text,
    report_markdown,
    slower,
)
from .scan import NEAR, NEAREST, UNTRAINED, replan, scan, scan_captured

__all__ = [
    "NEAR",
    "NEAREST",
    "RULES",
    "UNTRAINED",
    "build_report",
    "captured_for",
    "excluded_text",
    "human",
    "human_bytes",
    "inputs_text",
    "join_reports",
    "kept_groups",
    "operator_text",
    "ratio_text",
    "replan",
    "report_markdown",
    "scan",
    "scan_captured",
    "slower",
]
