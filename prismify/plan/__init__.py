"""What is decided: `Policy` turns facts about a layer into a `Decision` with its reason, and a `Plan` holds them all.

A plan is plain data, JSON in and JSON out. Nothing else in prismify decides which layer changes.
"""

from .plan import Decision, Plan, Totals, with_rows
from .policies import check_patterns, decide
from .policy import Policy, Verdict

__all__ = [
    "Decision",
    "Plan",
    "Policy",
    "Totals",
    "Verdict",
    "check_patterns",
    "decide",
    "with_rows",
]
