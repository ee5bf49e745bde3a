"""torchvision's data sets, as plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision import datasets, models

from ..errors import DataError


def cifar10(root: Path, *, train: bool) -> Any:
    """The images of CIFAR-10's Python version as a uint8 array, shape (N, 32, 32, 3); nothing is downloaded.

    Raises:
        DataError: it does not lie at `root`.
    """
    try:
        return datasets.CIFAR10(str(root), train=train, download=False).data
    except Exception as error:
        raise DataError(
            f"{root} holds no CIFAR-10 as torchvision unpacks it (cifar-10-batches-py): "
            f"get cifar-10-python.tar.gz and unpack it there ({' '.join(str(error).split())[:120]})"
        ) from error


def backbone(name: str) -> dict[str, Any]:
    """The ImageNet weights of a torchvision classifier, from its cache or the network."""
    state: dict[str, Any] = models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    return state
