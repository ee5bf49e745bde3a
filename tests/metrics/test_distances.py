"""Distances of sets of features against formulas written another way, and against what is known of sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from prismify.metrics.distances import (
    Gaussian,
    frechet,
    gaussian,
    inception_score,
    kernel_distance,
    precision_and_recall,
)


def test_the_moments_are_numpys_at_any_number_of_chunks() -> None:
    features = 1e3 + torch.randn(2500, 7) * torch.arange(1, 8)  # far from zero, where sums of squares lose digits
    found = gaussian(features)
    np.testing.assert_allclose(found.mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_frechet_of_known_gaussians() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    shift = np.array([1.0, -2.0, 0.5])
    known = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()  # of covariances that commute
    assert frechet(Gaussian(np.zeros(3), np.diag(a)), Gaussian(shift, np.diag(b))) == pytest.approx(known, abs=1e-9)
    # Turned by one rotation, nothing changes.
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = [Gaussian(turn @ m, turn @ np.diag(c) @ turn.T) for m, c in ((np.zeros(3), a), (shift, b))]
    assert frechet(*turned) == pytest.approx(known, abs=1e-9)


def test_frechet_of_covariances_that_do_not_commute() -> None:
    draws = np.random.default_rng(1)
    first, second = (x @ x.T for x in draws.normal(size=(2, 5, 8)))
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()  # tr (A^½ B A^½)^½
    known = np.trace(first) + np.trace(second) - 2 * trace
    assert frechet(Gaussian(np.zeros(5), first), Gaussian(np.zeros(5), second)) == pytest.approx(known, rel=1e-9)


def test_kid_is_the_unbiased_mmd_of_its_kernel() -> None:
    # Of 20 and 20 features there are subsets of 10: the mean over all of their draws is the estimate over all pairs.
    made, reference = torch.randn(20, 4), torch.randn(20, 4) + 0.7

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 4 + 1) ** 3)

    def within(features: torch.Tensor) -> float:
        pairs = list(itertools.permutations(range(20), 2))
        return sum(kernel(features[i], features[j]) for i, j in pairs) / len(pairs)

    across = float(np.mean([kernel(x, y) for x in made for y in reference]))
    found = kernel_distance(made, reference, 4000, 1000)
    assert found is not None
    assert found.over == "4000 subsets of 10"
    assert found.deviation is not None
    standard_error = found.deviation / 4000**0.5
    assert abs(found.mean - (within(made) + within(reference) - 2 * across)) < 4 * standard_error


def test_kid_of_one_distribution_is_nothing_and_of_two_is_not() -> None:
    first, second = torch.randn(400, 6), torch.randn(400, 6)
    same, other = kernel_distance(first, second, 50, 100), kernel_distance(first, second + 1, 50, 100)
    assert same is not None
    assert other is not None
    assert same.deviation is not None
    assert abs(same.mean) < 2 * same.deviation
    assert other.mean > 10 * same.deviation
    assert kernel_distance(first[:19], second, 50, 100) is None
    assert kernel_distance(first, second[:19], 50, 100) is None


def test_the_inception_score_of_known_classes() -> None:
    def logits(classes: torch.Tensor) -> torch.Tensor:
        return 60.0 * torch.nn.functional.one_hot(classes, 10)

    sure = inception_score(logits(torch.arange(200) % 10), 1)
    assert sure is not None
    assert sure.mean == pytest.approx(10, rel=1e-6)  # sure of ten classes, all as frequent
    half = inception_score(logits(torch.arange(200) % 5), 1)
    assert half is not None
    assert half.mean == pytest.approx(5, rel=1e-6)
    unsure = inception_score(torch.zeros(200, 10), 4)
    assert unsure is not None
    assert unsure.mean == pytest.approx(1)
    assert unsure.over == "4 splits"
    assert inception_score(torch.zeros(3, 10), 4) is None


def test_precision_and_recall_of_equal_disjoint_and_nested_sets() -> None:
    features = torch.randn(60, 5) + 300  # far from zero, where products lose digits

    def found(made: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
        pair = precision_and_recall(made, reference)
        assert pair is not None
        return pair[0].mean, pair[1].mean

    assert found(features, features.clone()) == (1, 1)
    assert found(features, features + 50) == (0, 0)
    assert found(features[:20], torch.cat([features[:20], features + 50]))[0] == 1  # all real, of one mode of two
    assert found(features[:20], torch.cat([features[:20], features + 50]))[1] == pytest.approx(20 / 80)
    assert precision_and_recall(features[:3], features) is None


def test_precision_is_counted_as_it_is_defined() -> None:
    made, reference = torch.randn(1100, 3) * 0.6, torch.randn(50, 3)  # more rows than are worked on at a time
    between = torch.cdist(reference.double(), reference.double())
    radii = between.sort(1).values[:, 3]
    share = (torch.cdist(made.double(), reference.double()) <= radii).any(1).double().mean()
    pair = precision_and_recall(made, reference)
    assert pair is not None
    assert pair[0].mean == pytest.approx(float(share), abs=2e-3)
    assert pair[0].over == "3 neighbours among 1100 and 50"
