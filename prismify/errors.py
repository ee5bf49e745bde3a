"""What can go wrong, as kinds a caller can act on. Every message is one line that says what to do."""

from __future__ import annotations


class PrismifyError(Exception):
    """Base of every error that prismify raises on purpose."""


class ShapeError(PrismifyError, ValueError):
    """A tensor's or a layer's shape does not fit the operator."""


class CaptureError(PrismifyError, RuntimeError):
    """A model could not be run or traced with the given example inputs."""


class PlanError(PrismifyError, ValueError):
    """A plan is malformed, or does not fit the model it is applied to."""


class ConversionError(PrismifyError, RuntimeError):
    """A converted model failed the checks made after rewriting; the original is unchanged."""


class SourceError(PrismifyError, ValueError):
    """A model reference, a weights file or a folder cannot be read as what it is taken for."""


class UnsafePickleError(SourceError):
    """A pickle holds classes that are not allow-listed; nothing of it was run."""


class RecipeError(PrismifyError, ValueError):
    """A recipe is malformed, or asks for what is not there."""


class DataError(PrismifyError, ValueError):
    """Images cannot be found or read as what a recipe says they are."""


class TrainingError(PrismifyError, RuntimeError):
    """A run stopped: a loss diverged, memory ran out, a device is missing. Its state is kept."""


class OutputError(PrismifyError, OSError):
    """The output folder cannot be written, or exists already."""


def one_line(error: BaseException, length: int = 300) -> str:
    """Somebody else's error in one line: its kind and its text, cut where it is longer than `length`."""
    text = " ".join(str(error).split())
    text = text if len(text) <= length else f"{text[:length].rstrip()} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
