"""Sampling: a known distribution is met, the same seed gives the same picture, and what does not fit is told."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor, nn

from prismify.diffusion import SAMPLERS, Denoiser, Noising, sample
from prismify.errors import RecipeError
from prismify.families import schedulers
from prismify.graph.classes import rows_of_classes
from prismify.training.schema import Noise

from .conftest import unet

MEAN, DEVIATION = 0.3, 0.5


class Gaussian(nn.Module):
    """What a perfect denoiser predicts of pictures whose pixels are normal numbers, each by itself."""

    def __init__(self, noising: Noising) -> None:
        super().__init__()
        self.noising = noising

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, spread = self.noising._factors(t, x)
        gain = signal * DEVIATION**2 / (signal**2 * DEVIATION**2 + spread**2)
        clean = MEAN + gain * (x - signal * MEAN)
        if self.noising.is_flow:
            return (x - clean) / spread
        return self.noising.meaning(clean, x, t)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0", "flow"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_gives_the_distribution(prediction: str, sampler: str) -> None:
    noising = Noising(Noise(prediction=prediction, schedule="squaredcos_cap_v2"))  # type: ignore[arg-type]
    if prediction == "flow" and sampler != "euler":
        with pytest.raises(RecipeError, match="a flow is sampled by euler"):
            sample(Denoiser(Gaussian(noising)), noising, (1, 4, 4), [0], sampler=sampler)
        return
    made = sample(Denoiser(Gaussian(noising)), noising, (1, 16, 16), range(40), steps=100, sampler=sampler)
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(made.std()) == pytest.approx(DEVIATION, abs=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_picture_at_any_batch_size(sampler: str) -> None:
    torch.manual_seed(1)
    denoiser, noising = Denoiser(unet().eval()), Noising(Noise())
    options = {"steps": 3, "sampler": sampler, "null": 2, "guidance": 2.0, "limits": (-1.0, 1.0)}
    labels = torch.tensor([0, 1, 0, 1, 0])
    whole = sample(denoiser, noising, (3, 8, 8), range(5), labels=labels, **options)  # type: ignore[arg-type]
    alone = [sample(denoiser, noising, (3, 8, 8), [i], labels=labels[i : i + 1], **options) for i in range(5)]  # type: ignore[arg-type]
    assert torch.allclose(whole, torch.cat(alone), atol=1e-4)
    assert not torch.allclose(whole[0], whole[2], atol=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_estimates_of_the_clean_picture_are_cut(sampler: str) -> None:
    class Wild(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 3 * x.sin()

    noising = Noising(Noise())
    made = sample(Denoiser(Wild()), noising, (1, 4, 4), range(4), steps=10, sampler=sampler, limits=(0.0, 3.0))
    assert float(made.min()) >= -1e-3
    assert float(made.max()) <= 3 + 1e-3


@pytest.mark.parametrize("timesteps", [100, 1000])
def test_every_number_of_steps_is_that_many_down_to_no_time_below_zero(timesteps: int) -> None:
    """diffusers' own lists are one too long at 62 of the 1,000 numbers, 61 among them."""
    trained = Noising(Noise(timesteps=timesteps)).scheduler
    for steps in range(1, timesteps + 1, 1 if timesteps == 100 else 30):
        for sampler in ("ddpm", "ddim", "euler"):
            times = schedulers().sampling_scheduler(trained, sampler, steps, "cpu").timesteps.tolist()
            assert len(times) == steps
            assert times[0] == timesteps - 1
            assert min(times) >= 0
            assert times == sorted(set(times), reverse=True)


def test_ddim_is_that_of_diffusers_where_steps_divide_the_times() -> None:
    noising = Noising(Noise(schedule="scaled_linear"))
    denoiser, steps = Denoiser(unet(num_class_embeds=None).eval()), 10
    theirs = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    theirs.set_timesteps(steps)
    x = torch.randn((3, 8, 8), generator=torch.Generator().manual_seed(5))[None]
    with torch.no_grad():
        for time in theirs.timesteps:
            x = theirs.step(denoiser(x, time.expand(1)), time, x).prev_sample
    ours = sample(denoiser, noising, (3, 8, 8), [5], steps=steps, sampler="ddim")
    assert torch.allclose(ours, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_guidance_goes_away_from_what_is_said_without_a_class() -> None:
    class Told(nn.Module):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            clean = torch.tensor([0.2, -0.2, 0.0])[class_labels][:, None, None, None].expand_as(x)
            return noising.meaning(clean, x, t)

    noising = Noising(Noise())
    options = {"steps": 20, "labels": torch.tensor([0, 1]), "null": 2}
    for guidance in (1.0, 3.0):
        made = sample(Denoiser(Told()), noising, (1, 2, 2), [0, 1], guidance=guidance, **options)  # type: ignore[arg-type]
        assert made.mean((1, 2, 3)).tolist() == pytest.approx([0.2 * guidance, -0.2 * guidance], abs=0.01)
    with pytest.raises(RecipeError, match="guidance goes away from what a model says without a class"):
        sample(Denoiser(Told()), noising, (1, 2, 2), [0], labels=torch.tensor([0]), guidance=2.0)


def test_what_does_not_fit_is_told() -> None:
    noising = Noising(Noise(timesteps=10))
    for options, message in (
        ({"sampler": "heun"}, "sampler 'heun' is not one of ddpm, ddim"),
        ({"steps": 11}, "steps 11 must lie between 1 and the 10 of the training"),
    ):
        with pytest.raises(RecipeError, match=message):
            sample(Denoiser(Gaussian(noising)), noising, (1, 2, 2), [0], **options)  # type: ignore[arg-type]


def test_denoisers_of_any_signature_are_called_alike() -> None:
    class ByPlace(nn.Module):
        def forward(self, picture: Tensor, moment: Tensor) -> tuple[Tensor, int]:
            return picture + moment[:, None, None, None], 1

    class Variances(nn.Module):
        def forward(self, hidden_states: Tensor, timestep: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            assert y is not None
            return {"sample": torch.cat([hidden_states * y[:, None, None, None], hidden_states], 1)}

    x, t, labels = torch.ones(2, 3, 4, 4), torch.tensor([5, 6]), torch.tensor([1, 2])
    assert torch.equal(Denoiser(ByPlace())(x, t, labels), x + t[:, None, None, None])
    assert torch.equal(Denoiser(Variances())(x, t, labels), x * labels[:, None, None, None])
    assert not Denoiser(ByPlace()).takes_labels
    with pytest.raises(RecipeError, match="Conv2d takes input alone, and no time: it is no denoiser"):
        Denoiser(nn.Conv2d(3, 3, 1))


def test_tables_of_classes_are_found() -> None:
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8, num_embeds_ada_norm=7,
        norm_num_groups=4,
    )  # fmt: skip
    assert rows_of_classes(dit) == 8  # one for none
    assert rows_of_classes(unet()) == 3
    assert rows_of_classes(unet(num_class_embeds=None)) is None
    made = Denoiser(dit.eval())(torch.randn(2, 4, 8, 8), torch.tensor([3, 4]), torch.tensor([6, 7]))
    assert made.shape == (2, 4, 8, 8)


def test_a_table_of_times_and_a_norm_over_pictures_tell_what_a_denoiser_takes() -> None:
    import prismify

    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.times, self.norm = nn.Embedding(10, 16), nn.LayerNorm((2, 12, 20))
            self.enter, self.leave = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 2, 3, padding=1)
            self.inner = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            told = self.times(t)[:, :, None, None]
            result: Tensor = self.leave(self.inner((self.enter(self.norm(x)) + told).relu()))
            return result

    plan = prismify.scan(Looked())
    assert [(row["name"], row["shape"]) for row in plan.capture[0]["inputs"]] == [("x", [1, 2, 12, 20]), ("t", [1])]
    assert [layer.name for layer in plan.replaced] == ["inner"]
