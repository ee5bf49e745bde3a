"""From the content of an image file to upright pixels: no alpha, and as many levels as the file has."""

from __future__ import annotations

import functools
import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps

from ...errors import DataError
from ..schema import Data

#: What is read, by content. Named one by one: Pillow also knows formats that start another program (EPS).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "QOI", "AVIF", "JPEG2000", "HEIF",
            "JXL")  # fmt: skip
#: What teaches Pillow a format: the module, what switches it on, its package, and the suffixes it is for.
_PLUGINS = (
    ("pillow_heif", "register_heif_opener", "pillow-heif", (".heic", ".heif", ".hif")),
    ("pillow_jxl", None, "pillow-jxl-plugin", (".jxl",)),
)
_COMMON = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".apng", ".jpe", ".jfif", ".dib", ".ppm",
           ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".qoi")  # fmt: skip
#: Read where this Pillow can.
_OTHERS = (".avif", ".jp2", ".j2k", ".j2c", ".jpx", ".jpf", *(s for *_, many in _PLUGINS for s in many))
#: Grey may lie this share of white beyond black and white, as resampling leaves it.
_SLACK = 0.01


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that can be read here, with the plugins that are installed."""
    Image.init()
    for name, switch, _, _ in _PLUGINS:
        with suppress(ImportError):
            module = importlib.import_module(name)
            if switch is not None:
                getattr(module, switch)()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Suffixes of the image files that can be read here."""
    formats, known = _formats(), Image.registered_extensions()
    return _COMMON + tuple(suffix for suffix in _OTHERS if known.get(suffix) in formats)


def how_to_read(suffix: str) -> str | None:
    """What to install for image files that cannot be read here; None where the suffix is of no image."""
    if suffix not in _OTHERS or suffix in suffixes():
        return None
    package = next((package for *_, package, many in _PLUGINS if suffix in many), "--upgrade pillow")
    return f"to read: pip install {package}"


def decode(content: Any, data: Data) -> Image.Image:
    """An image as a viewer shows it, over `data.background`.

    Args:
        content: an image file's bytes, or a uint8 array (H, W) or (H, W, 3).

    Returns:
        A picture in mode RGB or L; or F, grey in which white is 255, where the file has more levels than that.

    Raises:
        DataError: it is too large, or holds values beyond black and white; the message goes on after a name.
    """
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged tags; the size is checked here
        with _at_most(None):
            picture = Image.open(io.BytesIO(content), formats=_formats())
        width, height = picture.size
        if width * height > data.max_pixels:
            raise DataError(
                f"is {width}x{height}, more than data.max_pixels={data.max_pixels:,}: raise that, or make the image "
                "smaller"
            )
        with _at_most(data.max_pixels):
            picture.load()
        with suppress(Exception):  # tags are damaged more often than pixels
            ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith(("I", "F")):
            return _scaled(picture, data)
        if picture.has_transparency_data:
            return _over(picture.convert("RGBA"), data.background)
        return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


@contextmanager
def _at_most(pixels: int | None) -> Iterator[None]:
    """Pillow's own bound, which also holds inside files of several frames and tiles, at ours."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None if pixels is None else max(1, (pixels + 1) // 2)  # it refuses above twice this
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _over(picture: Image.Image, background: str) -> Image.Image:
    under = Image.new("RGBA", picture.size, ImageColor.getrgb(background))
    return Image.alpha_composite(under, picture).convert("RGB")


def _scaled(picture: Image.Image, data: Data) -> Image.Image:
    """Grey of more than 8 bits, white at 255."""
    values = np.asarray(picture)
    white = data.white or _white_of(picture)
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK * white and high <= (1 + _SLACK) * white):  # neither holds of NaN
        raise DataError(
            f"holds values from {low:g} to {high:g}, where black is 0 and white {white:g}: set data.white to what "
            "white is in it"
        )
    scaled = np.clip(values.astype(np.float32) * (255 / white), 0, 255)
    key = picture.info.get("transparency")  # one level that stands for "nothing here"
    if isinstance(key, int):
        scaled[values == key] = Image.new("RGB", (1, 1), data.background).convert("L").getpixel((0, 0))
    return Image.fromarray(scaled)


def _white_of(picture: Image.Image) -> float:
    """White as the file's format has it."""
    if picture.mode == "F":
        return 1.0
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    bits, is_signed = int(tags.get(258, (16,))[0]), tags.get(339, (1,))[0] == 2
    if bits > 16:  # nobody fills these: all bits would make a black picture of what most hold
        raise DataError(f"holds whole numbers of {bits} bits: set data.white to what white is in it")
    return float(2 ** (bits - is_signed) - 1)
