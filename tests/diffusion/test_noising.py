"""Noise added and taken away again, in every prediction, against the formulas."""

from __future__ import annotations

import diffusers
import pytest
import torch

from prismify.diffusion import Noising
from prismify.training.schema import Noise

PREDICTIONS = ("epsilon", "v", "x0", "flow")


def drawn(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, 4, 4), torch.randn(batch, 3, 4, 4), torch.linspace(0.05, 0.95, batch)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_right_prediction_means_the_clean_picture(prediction: str) -> None:
    noising = Noising(Noise(prediction=prediction, schedule="squaredcos_cap_v2"))  # type: ignore[arg-type]
    clean, noise, chances = drawn()
    times = noising.times(chances)
    noised, target = noising.noised(clean, noise, times), noising.target(clean, noise, times)
    assert torch.allclose(noising.clean(target, noised, times), clean, atol=1e-4)
    assert torch.allclose(noising.meaning(clean, noised, times), target, atol=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_is_that_of_diffusers(schedule: str) -> None:
    noising = Noising(Noise(prediction="v", schedule=schedule))  # type: ignore[arg-type]
    theirs = diffusers.DDPMScheduler(beta_schedule=schedule, prediction_type="v_prediction")
    clean, noise, chances = drawn()
    times = noising.times(chances)
    assert torch.allclose(noising.noised(clean, noise, times), theirs.add_noise(clean, noise, times), atol=1e-6)
    assert torch.allclose(noising.target(clean, noise, times), theirs.get_velocity(clean, noise, times), atol=1e-6)


def test_a_flow_is_a_straight_line_from_the_picture_to_noise() -> None:
    noising = Noising(Noise(prediction="flow", timesteps=500))
    clean, noise, _ = drawn(3)
    times = noising.times(torch.tensor([0.0, 0.25, 0.999]))
    assert times.tolist() == pytest.approx([0.0, 125.0, 499.5])
    made = noising.noised(clean, noise, times)
    assert torch.equal(made[0], clean[0])
    assert torch.allclose(made[1], 0.75 * clean[1] + 0.25 * noise[1])
    assert torch.equal(noising.target(clean, noise, times), noise - clean)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_the_error_of_the_clean_picture_alike(prediction: str) -> None:
    """Hang et al. (2023): whatever is predicted, the error of x0 counts min(SNR, gamma)."""
    noising = Noising(Noise(prediction=prediction))  # type: ignore[arg-type]
    clean, noise, chances = drawn()
    times = noising.times(chances)
    share = times / 1000
    kept = diffusers.DDPMScheduler().alphas_cumprod[times.long()]
    ratio = ((1 - share) / share) ** 2 if prediction == "flow" else kept / (1 - kept)
    noised, target = noising.noised(clean, noise, times), noising.target(clean, noise, times)
    wrong = target + 0.1 * torch.randn_like(target)
    weighted = noising.weights(times, 5.0) * (wrong - target).square().flatten(1).mean(1)
    of_clean = (noising.clean(wrong, noised, times) - clean).square().flatten(1).mean(1)
    wanted = ratio.clamp_max(5.0) * of_clean
    assert torch.allclose(weighted, wanted, rtol=2e-2)


def test_times_cover_all_and_no_more() -> None:
    times = Noising(Noise(timesteps=10)).times((torch.arange(1000) + 0.5) / 1000)
    assert times.dtype == torch.long
    assert torch.bincount(times).tolist() == [100] * 10
