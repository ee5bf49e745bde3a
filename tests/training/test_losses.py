"""The terms of the loss against what they are defined by."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.distributions import Normal, kl_divergence

from prismify.errors import RecipeError
from prismify.training import losses
from prismify.training.average import Average
from prismify.training.losses import Divergence, PatchDiscriminator, smallest_side
from prismify.training.rates import adam, parameters_by_kind, scheduled
from prismify.training.schema import Discriminator, Rates, Train


def test_the_kl_is_that_of_torch_distributions() -> None:
    mean, log_variance = torch.randn(5, 3, 4, 4, dtype=torch.float64), torch.randn(5, 3, 4, 4, dtype=torch.float64)
    normal = Normal(mean, (0.5 * log_variance).exp())
    each = kl_divergence(normal, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum((1, 2, 3))
    assert torch.allclose(losses.kl_loss(mean, log_variance), each.mean(), rtol=1e-12)


def test_the_hinge_is_zero_only_beyond_its_margins() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0])
    assert losses.hinge_discriminator_loss(real, fake) == 0
    assert losses.hinge_discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])) == 0.5 * (1.0 + 1.5)
    assert losses.hinge_generator_loss(torch.tensor([2.0, 4.0])) == -3


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    rest, adversarial = (weight * torch.tensor([6.0, 8.0])).sum(), (weight * torch.tensor([0.0, 2.0])).sum()
    found = losses.adaptive_weight(rest, adversarial, weight, lambda x: x)
    assert float(found) == pytest.approx(10 / (2 + 1e-4))
    assert not found.requires_grad
    silent = losses.adaptive_weight(rest, (weight * 0).sum(), weight, lambda x: x)
    assert float(silent) == 1e4


def test_relative_error_is_one_for_the_teachers_mean() -> None:
    teacher = torch.randn(4, 3, 8, 8)
    assert losses.relative_error(teacher, teacher) == 0
    assert float(losses.relative_error(teacher.mean().expand_as(teacher), teacher)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("layers", "norm"), [(1, "group"), (2, "batch"), (3, "none")])
def test_the_smallest_image_leaves_one_patch(layers: int, norm: str) -> None:
    options = Discriminator(channels=8, layers=layers, norm=norm)
    judge, side = PatchDiscriminator(3, options), smallest_side(options)
    assert judge(torch.zeros(2, 3, side, side)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError):
        judge(torch.zeros(2, 3, side - 1, side - 1))


def test_the_average_follows_and_forgets_its_start() -> None:
    layer = nn.Linear(1, 1)
    average = Average(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    start = float(average.model.weight)
    average.update(layer, 1)
    assert float(average.model.weight) == pytest.approx(start + (1 - 2 / 11) * (1 - start))
    for step in range(200, 300):
        average.update(layer, step)
    assert float(average.model.weight) == pytest.approx(1, abs=1e-4)
    latest = Average(layer, None)
    with torch.no_grad():
        layer.weight.fill_(-3.0)
    latest.update(layer, 1)
    assert float(latest.model.weight) == -3


def test_rates_differ_by_kind_of_layer() -> None:
    from prismify.layers import DeepPrism, DeepPrism1d, DeepPrismTranspose3d

    model = nn.Sequential(nn.Conv2d(3, 16, 3), DeepPrism(16), nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 3))
    of_other_ranks = nn.ModuleList([DeepPrism1d(16), DeepPrismTranspose3d(16)])
    counts = {k: sum(p.numel() for p in v) for k, v in parameters_by_kind(model).items()}
    assert counts == {"kernel": 28, "norm": 32, "dense": 16 * 28 + 3 * 145}
    assert [*map(len, parameters_by_kind(of_other_ranks).values())] == [4, 0, 0]
    train = Train(learning_rate=0.5, steps=10, rates=Rates(kernel=2.0, norm=1.0, dense=0.1))
    assert {g["kind"]: g["lr"] for g in adam(model, train).param_groups} == {"kernel": 1.0, "norm": 0.5, "dense": 0.05}


def test_an_operator_has_a_rate_of_its_own() -> None:
    from prismify.layers import DeepPrism, DeepPrism1d, Operator, build_operator

    tucker = build_operator(Operator("Tucker", options={"rank": 2}), nn.Conv2d(16, 16, 3))
    model = nn.ModuleList([tucker, DeepPrism1d(16), nn.Conv2d(16, 3, 3)])
    train = Train(learning_rate=0.5, steps=10, rates=Rates(kernel=2.0, operators={"Tucker": 4.0}))
    groups = {g["kind"]: (g["lr"], sum(p.numel() for p in g["params"])) for g in adam(model, train).param_groups}
    assert groups == {"kernel": (1.0, 10), "dense": (0.5, 3 * 145), "Tucker": (2.0, 2 * 32 + 36 + 16)}
    named = Train(learning_rate=0.5, steps=10, rates=Rates(kernel=2.0, operators={"DeepPrism": 3.0}))
    assert {g["kind"]: g["lr"] for g in adam(model, named).param_groups} == {"dense": 0.5, "DeepPrism": 1.5}
    with pytest.raises(RecipeError, match=r"the model holds no Tucke; it has DeepPrism, Tucker"):
        parameters_by_kind(model, ["Tucke"])
    assert parameters_by_kind(nn.Sequential(DeepPrism(16)))["kernel"]


def test_schedules_rise_and_fall() -> None:
    train = Train(learning_rate=1.0, steps=110, warmup_steps=10, schedule="cosine", final_rate=0.1)
    factors = [scheduled(train, step, 110) for step in range(111)]
    assert factors[0] == 0.1
    assert factors[9] == 1.0
    assert factors[60] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[110] == pytest.approx(0.1)
    linear = Train(learning_rate=1.0, steps=100, schedule="linear")
    assert scheduled(linear, 25, 100) == pytest.approx(0.75)
    timed = replace(linear, max_minutes=2.0)
    assert scheduled(timed, 25, 100, seconds=12) == pytest.approx(0.75)  # the steps are ahead of the clock
    assert scheduled(timed, 25, 100, seconds=60) == pytest.approx(0.5)
    assert scheduled(timed, 25, 100, seconds=121) == 0.0
    assert scheduled(Train(learning_rate=1.0, steps=100), 99, 100) == 1.0


def test_divergence_names_the_term() -> None:
    watch = Divergence(100.0)
    for _ in range(100):
        assert watch.see({"reconstruction": 0.1, "adversarial": -0.01}) is None
    assert watch.see({"reconstruction": 0.1, "adversarial": math.nan}) == "adversarial is nan"
    said = [watch.see({"reconstruction": 50.0, "adversarial": 0.01}) for _ in range(10)]
    assert said[:9] == [None] * 9
    assert said[9] is not None
    assert said[9].startswith("reconstruction is 50, 100 times what it was (0.1)")


@pytest.mark.data
@pytest.mark.parametrize(("net", "far", "near"), [("alex", 0.7219, 0.1376), ("vgg", 0.5686, 0.4217)])
def test_lpips_is_the_published_one(shared_data: Path, net: str, far: float, near: float) -> None:
    import numpy as np
    from torchmetrics.functional.image.lpips import _LPIPS

    from prismify.training.losses import load_lpips
    from prismify.training.schema import Perceptual

    def picture(name: str) -> torch.Tensor:
        pixels = np.array(Image.open(shared_data / "lpips" / name).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1

    file = shared_data / "lpips" / f"lpips_{'alexnet' if net == 'alex' else 'vgg16'}_v0.1_fp16.safetensors"
    lpips, said = load_lpips(Perceptual(net=net, weights=str(file)))
    assert file.name in said
    reference, one, other = (picture(f"ex_{name}.png") for name in ("ref", "p0", "p1"))
    assert float(lpips(reference, one)) == pytest.approx(far, abs=2e-3)
    assert float(lpips(reference, other)) == pytest.approx(near, abs=2e-3)

    # torchmetrics' own network, with the same backbone put in.
    theirs = _LPIPS(net=net, pretrained=True, pnet_rand=True).eval()
    features = dict(lpips.features.named_parameters())
    for name, parameter in theirs.net.named_parameters():
        parameter.data.copy_(features[name.split(".", 1)[1]])
    assert float(theirs(reference, one)) == pytest.approx(float(lpips(reference, one)), abs=2e-3)
