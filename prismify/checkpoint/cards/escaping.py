"""Words of models and files as text of a card: whatever they are called, they stay words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#!|~$@])")
_LONGEST = 200


def plain(text: object) -> str:
    """One line of what can be seen, cut where it is long: no control characters, none that turn the writing around."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def words(text: object) -> str:
    """Text that Markdown, and HTML in it, shows as it is.

    Example:
        >>> words("a|b <b>")
        'a\\\\|b &lt;b&gt;'
    """
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table whose first column is words and whose others are numbers."""
    lines = [f"| {' | '.join(map(words, head))} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return [*lines, *(f"| {' | '.join(map(words, row))} |" for row in rows)]
