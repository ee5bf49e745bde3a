"""torchvision's data sets, as plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision import datasets, models

from ..errors import DataError


def cifar10(root: Path, *, train: bool) -> tuple[Any, list[int], tuple[str, ...]]:
    """CIFAR-10's Python version: images as uint8 (N, 32, 32, 3), their classes, and the names of those.

    Nothing is downloaded.

    Raises:
        DataError: it does not lie at `root`.
    """
    try:
        found = datasets.CIFAR10(str(root), train=train, download=False)
    except Exception as error:
        raise DataError(
            f"{root} holds no CIFAR-10 as torchvision unpacks it (cifar-10-batches-py): "
            f"get cifar-10-python.tar.gz and unpack it there ({' '.join(str(error).split())[:120]})"
        ) from error
    return found.data, list(found.targets), tuple(found.classes)


def backbone(name: str) -> dict[str, Any]:
    """The ImageNet weights of a torchvision classifier, from its cache or the network."""
    state: dict[str, Any] = models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    return state
