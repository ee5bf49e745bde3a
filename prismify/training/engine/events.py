"""What a run tells whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Something a run tells whoever watches.

    "said": a line of text. "began": the run stands at `step` of `values["steps"]`, after `values["seconds"]` of at
    most `values["limit"]`, where the recipe sets one. "step", "measured": a record.
    "counted": of what `text` names, `values["done"]` of `values["of"]` are done; often.
    """

    kind: Literal["said", "began", "step", "measured", "counted"]
    step: int = 0
    text: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


Watch = Callable[[Event], None]
