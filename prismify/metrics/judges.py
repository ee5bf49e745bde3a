"""What judges pictures, and what it says of them: numbers named after the network, its weights and their count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..training.losses import LPIPS
from ..training.pictures import to_pixels
from .distances import LEAST_SUBSET, Spread, frechet, gaussian, inception_score, kernel_distance
from .networks import FeatureNetwork

NO_FEATURES, NO_LPIPS = "no feature network: give --features FILE", "no weights: give --lpips FILE"


@dataclass(frozen=True)
class Judges:
    """What measures: LPIPS and a feature network, or why there is none.

    Args:
        splits: of the inception score.
        subsets, subset_size: of KID.
    """

    lpips: LPIPS | None = None
    network: FeatureNetwork | None = None
    splits: int = 10
    subsets: int = 100
    subset_size: int = 1000


def pixels_of(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Images (B, C, H, W) at a range as networks take them: uint8 (B, 3, H, W), on the same device."""
    return torch.from_numpy(to_pixels(images, value_range)).permute(0, 3, 1, 2).to(images.device)


def judged(network: FeatureNetwork, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (N, D) and logits (N, K) of batches of pictures, uint8 (B, 3, H, W); float32, on the CPU."""
    parts = []
    with torch.no_grad():
        for pixels in batches:
            parts.append([part.float().cpu() for part in network.run(pixels)])
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return features, logits


def score(judges: Judges, logits: Tensor) -> dict[str, Spread]:
    """What the logits of one set say: IS."""
    assert judges.network is not None
    found = inception_score(logits, judges.splits)
    return {} if found is None else {judges.network.metric("IS", len(logits)): found}


def compare(judges: Judges, reference: Tensor, made: Tensor) -> dict[str, Spread]:
    """What the features of two sets say of how far apart they lie: KID and the Fréchet distance."""
    assert judges.network is not None
    found = {}
    kid = kernel_distance(made, reference, judges.subsets, judges.subset_size)
    if kid is not None:
        found[judges.network.metric("KID", len(made))] = kid
    if min(len(made), len(reference)) >= 2:
        distance = frechet(gaussian(made), gaussian(reference))
        found[judges.network.metric("FD", len(made))] = Spread(distance, None, f"{len(made)} images")
    return found


def not_measured(judges: Judges, count: int, references: int | None = None) -> dict[str, str]:
    """Metric -> why `score` and `compare` have none of it.

    Args:
        count: pictures that were made.
        references: in the set that they are compared with; None means as many.
    """
    if judges.network is None:
        return dict.fromkeys(("IS", "KID", "FD"), NO_FEATURES)
    missing, least = {}, count if references is None else min(count, references)
    if count < judges.splits:
        missing[judges.network.metric("IS", count)] = f"{count} images are fewer than its {judges.splits} splits"
    if least // 2 < LEAST_SUBSET:
        missing[judges.network.metric("KID", count)] = f"{least} images are fewer than {2 * LEAST_SUBSET}"
    if least < 2:
        missing[judges.network.metric("FD", count)] = "one image has no covariance"
    return missing
