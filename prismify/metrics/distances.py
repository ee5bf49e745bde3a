"""How far apart two sets of features lie, and what one set of logits says of its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Least features in a subset of KID to say anything.
LEAST_SUBSET = 10
#: Features, and rows of distances, that are worked on at a time.
_CHUNK = 1024
#: Of the random subsets and splits, so that the same features give the same numbers.
_SEED = 2020


@dataclass(frozen=True)
class Spread:
    """A measurement: its mean and its standard deviation, over images, splits or subsets; None where it has none."""

    mean: float
    deviation: float | None
    over: str


@dataclass(frozen=True)
class Gaussian:
    """The mean, shape (D,), and the covariance, shape (D, D), of features, in float64."""

    mean: Any
    covariance: Any


def inception_score(logits: Tensor, splits: int) -> Spread | None:
    """exp(KL(p(class | picture) || p(class))) over splits (Salimans et al., 2016); None of fewer pictures than splits.

    Args:
        logits: shape (N, K).
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    if len(logits) < splits:
        return None
    found = isc_features_to_metric(logits, splits=splits, rng_seed=_SEED)
    return Spread(found["inception_score_mean"], found["inception_score_std"], f"{splits} splits")


def kernel_distance(made: Tensor, reference: Tensor, subsets: int, most: int) -> Spread | None:
    """The unbiased squared MMD of the kernel (x·y / D + 1)³ over random subsets (KID; Bińkowski et al., 2018).

    Args:
        made, reference: shapes (N, D) and (M, D).
        most: features in a subset, and no more than half of either set: subsets of all would have no spread.

    Returns:
        Below zero by chance where the sets are alike; None of sets that are too small.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(most, len(made) // 2, len(reference) // 2)
    if size < LEAST_SUBSET:
        return None
    # In float64, since values of thousands are subtracted that differ by little.
    pair = (made.double(), reference.double())
    found = kid_features_to_metric(*pair, kid_subsets=subsets, kid_subset_size=size, rng_seed=_SEED, verbose=False)
    mean, deviation = (float(np.asarray(found[f"kernel_inception_distance_{key}"])) for key in ("mean", "std"))
    return Spread(mean, deviation, f"{subsets} subsets of {size}")


def gaussian(features: Tensor) -> Gaussian:
    """The Gaussian with the mean and the covariance of features, shape (N, D), of which there are two or more."""
    parts = [features[i : i + _CHUNK] for i in range(0, len(features), _CHUNK)]
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(features)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for part in parts:
        centred = part.double() - mean
        covariance += centred.T @ centred
    return Gaussian(mean.cpu().numpy(), (covariance / (len(features) - 1)).cpu().numpy())


def frechet(first: Gaussian, second: Gaussian) -> float:
    """|m - n|² + tr(A + B - 2 (A B)^½), of N(m, A) and N(n, B) (Dowson & Landau, 1982)."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    pair = ({"mu": one.mean, "sigma": one.covariance} for one in (first, second))
    return float(fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"])


def precision_and_recall(made: Tensor, reference: Tensor, neighbours: int = 3) -> tuple[Spread, Spread] | None:
    """Which share of what was made lies among the reference, and which of the reference among what was made.

    A feature lies among a set where one of the set is no farther from it than from its own k-th neighbour
    (Kynkäänniemi et al., 2019, Eqs. 1-2).

    Args:
        made, reference: shapes (N, D) and (M, D).
        neighbours: k.

    Returns:
        None of sets that have no k neighbours.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    if min(len(made), len(reference)) <= neighbours:
        return None
    # Distances are computed from products, which lose digits far from zero.
    centre = reference.mean(0)
    found = prc_features_to_metric(
        made - centre,
        reference - centre,
        prc_neighborhood=neighbours,
        prc_batch_size=_CHUNK,
        save_cpu_ram=True,
        verbose=False,
    )
    over = f"{neighbours} neighbours among {len(made)} and {len(reference)}"
    return Spread(found["precision"], None, over), Spread(found["recall"], None, over)
