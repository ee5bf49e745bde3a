"""Pictures within a page: small enough that it stays one that can be sent."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

#: Bytes of a picture at most, before it is written as text.
MOST_BYTES = 90_000
#: Its sides at most; and of a file that is read at all.
_MOST_SIDE, _MOST_PIXELS = 1400, 64_000_000
_QUALITIES = (88, 75, 60, 40)


def embedded_picture(path: Path) -> dict[str, Any] | None:
    """A picture's `source`, a data URL, with its `width` and `height`; None where the file is none, or too large.

    A PNG of few bytes stays as it is; others become JPEGs, smaller until they fit.
    """
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return None
            if path.stat().st_size <= MOST_BYTES:
                opened.load()
                return _as_data(path.read_bytes(), "png", opened.size)
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # whatever a damaged file makes of Pillow
        return None
    picture.thumbnail((_MOST_SIDE, _MOST_SIDE))
    while True:
        for quality in _QUALITIES:
            written = io.BytesIO()
            picture.save(written, format="JPEG", quality=quality)
            if len(written.getvalue()) <= MOST_BYTES:
                return _as_data(written.getvalue(), "jpeg", picture.size)
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


def _as_data(content: bytes, kind: str, size: tuple[int, int]) -> dict[str, Any]:
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"source": source, "width": size[0], "height": size[1]}
