"""What griffe is told of this project's docstrings."""

from __future__ import annotations

from typing import Any

from griffe import Extension


class Examples(Extension):
    """`Example:` begins a section of code, as `Examples:` does, and no box of prose."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
