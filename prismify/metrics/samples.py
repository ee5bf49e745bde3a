"""Pictures of several models measured side by side against a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.data import order_of
from ..training.pictures import sheet
from .distances import Spread, precision_and_recall
from .judges import NO_FEATURES, Judges, compare, judged, not_measured, score

_NEIGHBOURS = 3


@dataclass(frozen=True)
class Measured:
    """What was measured of samples.

    Args:
        rows: model -> metric -> measurement.
        of_reference: what can be said of the reference by itself.
        missing: metric -> why it is not there.
        count: pictures of each model.
        references: pictures that they were compared with.
        pictures: the first of the reference, and each model's below, those of one size: uint8 (H, W, 3).
    """

    rows: dict[str, dict[str, Spread]]
    of_reference: dict[str, Spread]
    missing: dict[str, str]
    count: int
    references: int
    pictures: Any


def measure_samples(
    samples: Mapping[str, Iterable[Tensor]],
    reference: Iterable[Tensor],
    judges: Judges,
    *,
    device: torch.device | str = "cpu",
    shown: int = 8,
    watch: Callable[[str], None] = lambda text: None,
) -> Measured:
    """IS, KID, the Fréchet distance, precision and recall of every model's pictures.

    What is kept of a picture is its features and logits.

    Args:
        samples: model -> batches of as many pictures as any other's, uint8 (B, 3, H, W).
        reference: batches of the data set, likewise.
        watch: is told what is being done.
    """
    watch("features of the data")
    compared = Counted(reference, device, shown)
    wanted = _judged(judges, compared)
    pages = [compared.page]
    rows: dict[str, dict[str, Spread]] = {}
    missing: dict[str, str] = {}
    count = 0
    for name, batches in samples.items():
        watch(f"features of {name}")
        counted = Counted(batches, device, shown)
        made = _judged(judges, counted)
        pages.append(counted.page)
        count, rows[name] = counted.count, {}
        if wanted is not None and made is not None and judges.network is not None:
            watch(f"distances of {name}")
            rows[name] = score(judges, made[1]) | compare(judges, wanted[0], made[0])
            names = [judges.network.metric(kind, count) for kind in ("precision", "recall")]
            # What lies among a set grows with its size, so they are counted in sets of one size.
            least = min(count, compared.count)
            pair = precision_and_recall(drawn(made[0], least), drawn(wanted[0], least), _NEIGHBOURS)
            if pair is None:
                missing |= dict.fromkeys(names, f"{least} images have no {_NEIGHBOURS} neighbours each")
            else:
                rows[name] |= dict(zip(names, pair, strict=True))
    if wanted is None:
        missing = dict.fromkeys(("IS", "KID", "FD", "precision", "recall"), NO_FEATURES)
    else:
        missing = not_measured(judges, count, compared.count) | missing
    of_reference = {} if wanted is None else score(judges, wanted[1])
    return Measured(rows, of_reference, missing, count, compared.count, page_of(pages))


class Counted:
    """Batches on a device, counted as they go by; the first pictures are kept to be shown.

    Args:
        batches: of pictures, uint8 (B, 3, H, W).
        shown: how many of the first batch are kept.
    """

    def __init__(self, batches: Iterable[Tensor], device: torch.device | str, shown: int) -> None:
        self.batches, self.device, self.shown = batches, device, shown
        self.count = 0
        self.page: Any = None

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            if self.page is None:
                self.page = batch[: self.shown].permute(0, 2, 3, 1).cpu().numpy()
            self.count += len(batch)
            yield batch.to(self.device)


def drawn(features: Tensor, count: int) -> Tensor:
    """So many of some features, (N, D), the same each time."""
    return features if count >= len(features) else features[order_of(len(features), 0, 0)[:count]]


def page_of(rows: Sequence[Any]) -> Any:
    """One picture of the reference and the samples, rows of uint8 (B, H, W, 3): those of the first samples' size."""
    alike = [row for row in rows if row.shape[1:] == rows[1].shape[1:]]
    most = max(len(row) for row in alike)
    first = np.full((most, *alike[0].shape[1:]), 255, dtype=np.uint8)
    first[: len(alike[0])] = alike[0]
    return sheet([first, *alike[1:]])


def _judged(judges: Judges, batches: Counted) -> tuple[Tensor, Tensor] | None:
    """Features and logits; None where there is no network: then the pictures are but counted."""
    if judges.network is not None:
        return judged(judges.network, batches)
    for _ in batches:
        pass
    return None
