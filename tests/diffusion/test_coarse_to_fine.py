"""Sampling coarse to fine, against SinDDM's update written out, and by a denoiser that knows the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prismify.diffusion import Denoiser, Noising
from prismify.diffusion.coarse_to_fine import sample_scales, steps_of
from prismify.diffusion.pyramid import Sizes, sizes_of_picture
from prismify.diffusion.record import Pyramid
from prismify.diffusion.scales import gammas, starts
from prismify.networks import SinDDM
from prismify.training.data import open_data
from prismify.training.schema import Data, Noise, Scales

BALLOONS = Path(__file__).parents[2] / "examples" / "images" / "balloons.png"
NOISING = Noising(Noise(timesteps=20, schedule="squaredcos_cap_v2"))
PYRAMID = Pyramid(factor=1.5, sizes=((8, 6), (12, 9), (18, 14)), distances=(0.9, 0.4))


class Knowing(nn.Module):
    """Knows the picture: says exactly the noise, whatever it is shown."""

    def __init__(self, sizes: Sizes, noising: Noising) -> None:
        super().__init__()
        self.sizes, self.noising = sizes, noising
        self.shares = gammas(noising, sizes.pyramid.distances)

    def forward(self, x: Tensor, time: Tensor, scale: Tensor) -> Tensor:
        at = int(scale[0])
        clean = self.sizes.blurred(at, self.shares[at, time])
        kept = self.noising.kept[time].reshape(-1, 1, 1, 1)
        return (x - kept.sqrt() * clean) / (1 - kept).sqrt()


def test_a_denoiser_that_knows_the_picture_makes_it() -> None:
    one, _ = open_data(Data(path=str(BALLOONS), validation=0), 0)
    sizes = sizes_of_picture(one, Scales(max_pixels=9000))
    made = sample_scales(Denoiser(Knowing(sizes, NOISING)), NOISING, sizes.pyramid, 3, [4, 5])
    assert len(sizes.pyramid.sizes) == 3
    assert made.shape == (2, *sizes.sharp[-1].shape)
    torch.testing.assert_close(made[0], sizes.sharp[-1], rtol=0, atol=0.02)  # what bytes round on the way
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=0.01)


def published(model: nn.Module, noising: Noising, pyramid: Pyramid, seed: int) -> Tensor:
    """SinDDM's sampling with omega 0: DDPM's posterior at the coarsest size, then the reblurring steps."""
    drawn = torch.Generator().manual_seed(seed)
    kept = noising.kept.double()
    before = torch.cat([torch.ones(1).double(), kept[:-1]])
    betas = 1 - kept / before
    shares = gammas(noising, pyramid.distances).double().clamp(0, 0.55)
    made = torch.zeros(1, 3, 1, 1)
    for scale, (width, height) in enumerate(pyramid.sizes):
        blurry = F.interpolate(made, size=(height, width), mode="bilinear")
        x = torch.randn(blurry.shape[1:], generator=drawn)[None]
        start = starts(noising, pyramid.distances)[scale]
        if scale > 0:
            x = kept[start].sqrt() * blurry + (1 - kept[start]).sqrt() * x
        for t in reversed(range(start + 1)):
            noise = model(x.float(), torch.tensor([t]), torch.tensor([scale])).double()
            estimate = (1 / kept[t]).sqrt() * x - (1 / kept[t] - 1).sqrt() * noise
            if scale == 0:
                mean = betas[t] * before[t].sqrt() / (1 - kept[t]) * estimate.clamp(-1, 1)
                mean = mean + (1 - before[t]) * (1 - betas[t]).sqrt() / (1 - kept[t]) * x
                x = mean
                if t > 0:
                    deviation = (betas[t] * (1 - before[t]) / (1 - kept[t])).sqrt()
                    x = x + deviation * torch.randn(x.shape[1:], generator=drawn)[None]
                continue
            sharp = (estimate - shares[scale, t] * blurry) / (1 - shares[scale, t])
            if t == 0:
                x = sharp.clamp(-1, 1)
                continue
            mixed = (shares[scale, t - 1] * blurry + (1 - shares[scale, t - 1]) * sharp).clamp(-1, 1)
            direction = (x - kept[t].sqrt() * estimate.clamp(-1, 1)) / (1 - kept[t]).sqrt()
            x = kept[t - 1].sqrt() * mixed + (1 - kept[t - 1]).sqrt() * direction
        made = x.float()
    return made


def test_the_published_update() -> None:
    model = SinDDM(16).eval()
    with torch.no_grad():
        ours = sample_scales(Denoiser(model), NOISING, PYRAMID, 3, [7])
        torch.testing.assert_close(ours, published(model, NOISING, PYRAMID, 7), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [None, (40, 11), (3, 30)])
def test_a_picture_is_the_same_in_any_batch(size: tuple[int, int] | None) -> None:
    denoiser = Denoiser(SinDDM(16).eval())
    together = sample_scales(denoiser, NOISING, PYRAMID, 3, [1, 2, 3], size=size)
    assert together.shape == (3, 3, *((14, 18) if size is None else reversed(size)))
    for index, seed in enumerate((1, 2, 3)):
        alone = sample_scales(denoiser, NOISING, PYRAMID, 3, [seed], size=size)
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_steps_are_counted_and_told_and_values_are_cut() -> None:
    told: list[int] = []
    made = sample_scales(Denoiser(SinDDM(16).eval()), NOISING, PYRAMID, 3, [1], limits=(0.0, 1.0), watch=told.append)
    assert told == list(range(1, steps_of(NOISING, PYRAMID) + 1))
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_other_predictions(prediction: str) -> None:
    noising = Noising(Noise(timesteps=20, schedule="squaredcos_cap_v2", prediction=prediction))
    made = sample_scales(Denoiser(SinDDM(16).eval()), noising, PYRAMID, 3, [1])
    assert torch.isfinite(made).all()
