"""Whether a card is as prismify wrote it: it carries the hash of its own words, and a person who edits it is kept."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

#: Bytes in the largest card that is read.
MOST_BYTES = 1 << 20
_MARK = re.compile(r"<!-- written by prismify, sha256 ([0-9a-f]{64}): edit it, and it stays as you leave it -->\n")
CARD_NAME = "README.md"


def marked(front: str, body: str) -> str:
    """A card with its mark between front matter and body."""
    digest = hashlib.sha256(f"{front}{body}".encode()).hexdigest()
    return f"{front}<!-- written by prismify, sha256 {digest}: edit it, and it stays as you leave it -->\n{body}"


def is_as_written(text: str) -> bool:
    """Whether nobody has changed a card since prismify wrote it."""
    text = text.replace("\r\n", "\n")
    found = _MARK.search(text)
    rest = _MARK.sub("", text, count=1)
    return found is not None and hashlib.sha256(rest.encode()).hexdigest() == found[1]


def edited_card(folder: Path) -> str | None:
    """The card of a folder where a person wrote or edited it; None where there is none, or prismify's own."""
    path = folder / CARD_NAME
    if not path.is_file() or path.is_symlink() or path.stat().st_size > MOST_BYTES:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return None if is_as_written(text) else text
