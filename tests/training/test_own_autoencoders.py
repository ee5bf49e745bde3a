"""Autoencoders of people's own: whatever form `encode` and `decode` give their results, they train and are measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from prismify.cli.main import app
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, Normal
from typer.testing import CliRunner

from prismify.errors import RecipeError
from prismify.graph.latents import Latents, decode, encode, latents_text
from prismify.training.models import reconstruct
from tests.tolerances import exact


@dataclasses.dataclass
class Encoded:
    latent: Any


class Pair(NamedTuple):
    mu: Tensor
    log_var: Tensor


class Gaussian:
    """As LDM's distribution: attributes and methods, no torch class."""

    def __init__(self, moments: Tensor) -> None:
        self.parameters = moments
        self.mean, self.logvar = moments.chunk(2, 1)
        self.std, self.var = (0.5 * self.logvar).exp(), self.logvar.exp()

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)

    def mode(self) -> Tensor:
        return self.mean


class Point:
    """A distribution that has methods alone."""

    def __init__(self, mean: Tensor) -> None:
        self._mean = mean

    def mode(self) -> Tensor:
        return self._mean

    def sample(self) -> Tensor:
        return self._mean + 1


def drawn(mean: Tensor, logvar: Tensor) -> Tensor:
    return mean + (0.5 * logvar).exp() * torch.randn_like(mean)


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()


class Net(nn.Module):
    """encode returns what `form` makes of mean and log-variance."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any], back: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(2, 3, 4, 2, 1)
        self.form, self.back = form, back

    def encode(self, x: Tensor) -> Any:
        return self.form(*self.enter(x).chunk(2, 1))

    def decode(self, z: Tensor) -> Any:
        return self.back(self.leave(z))


def indices(mean: Tensor) -> Tensor:
    return mean.argmax(1)


BOTH: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a pair": lambda m, v: (m, v),
    "a list": lambda m, v: [m, v],
    "a named tuple": Pair,
    "a sample first": lambda m, v: (drawn(m, v), m, v),
    "a sample last": lambda m, v: (m, v, drawn(m, v)),
    "a sample and its KL": lambda m, v: (drawn(m, v), m, v, kl(m, v)),
    "the mean as the sample": lambda m, v: (m, m, v),
    "the mean as the sample, last": lambda m, v: (m, v, m),
    "normal": lambda m, v: Normal(m, (0.5 * v).exp()),
    "independent": lambda m, v: Independent(Normal(m, (0.5 * v).exp()), 3),
    "a sample and its distribution": lambda m, v: (drawn(m, v), Normal(m, (0.5 * v).exp())),
    "a sample and its moments": lambda m, v: (drawn(m, v), (m, v)),
    "LDM": lambda m, v: Gaussian(torch.cat([m, v], 1)),
    "diffusers": lambda m, v: SimpleNamespace(latent_dist=Gaussian(torch.cat([m, v], 1))),
    "a dataclass": lambda m, v: Encoded(Normal(m, (0.5 * v).exp())),
    "a dict": lambda m, v: {"z": drawn(m, v), "mu": m, "logvar": v},
    "a dict of deviations": lambda m, v: {"z_mean": m, "z_std": (0.5 * v).exp()},
    "a dict of variances": lambda m, v: {"mean": m, "variance": v.exp()},
    "pythae": lambda m, v: {"embedding": m, "log_covariance": v},
}
ONE: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a tensor": lambda m, v: m,
    "a tuple of one": lambda m, v: (m,),
    "latents and a number without gradient": lambda m, v: (m, m.detach().mean(), None),
    "a dataclass": lambda m, v: Encoded(m),
    "a dict of one": lambda m, v: {"features": m},
    "an object with methods": lambda m, v: Point(m),
    "latents and indices": lambda m, v: (m, indices(m)),
    "quantised, before it, indices": lambda m, v: (m, m + 1, indices(m)),
}
LOSS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a pair": lambda m, v: (m, v.mean()),
    "taming": lambda m, v: (m, v.mean(), (m.detach().mean(), None, indices(m))),
    "loss first": lambda m, v: (v.mean(), m, m.detach().mean(), torch.eye(2 * len(m))),
    "a number a sample": lambda m, v: (m, v.mean((1, 2, 3))),
    "two parts": lambda m, v: (m, v.mean() / 2, v.mean() / 2),
    "by name": lambda m, v: {"quantized": m, "commitment_loss": v.mean(), "perplexity": m.detach().mean()},
    "beside": lambda m, v: (m, {"loss": v.mean(), "perplexity": m.detach().mean()}),
}
UNCLEAR: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a tuple (LATENTS, LATENTS, ()), in which several may be the latents": lambda m, v: (m, v, v.mean()),
    "a tuple (LATENTS, (3, 2, 4, 4)), in which several may be the latents": lambda m, v: (m, v[..., :4, :4]),
    "a tuple (LATENTS, LATENTS, LATENTS), in which no tensor is drawn from two others": lambda m, v: (m, v, m + v),
    "a tensor int64 (3, 8, 8), which are indices and no latents": lambda m, v: indices(m),
    "a Laplace, which is no normal distribution with a deviation for each number": lambda m, v: Laplace(m, v.exp()),
    "a dict (a: LATENTS, b: LATENTS), in which no name tells the latents": lambda m, v: {"a": m, "b": v},
    "a dict (z: LATENTS, logvar: LATENTS), which has a log-variance and no mean": lambda m, v: {"z": m, "logvar": v},
    "a str, which no recipe reads": lambda m, v: "no",
    "a tuple, in which nothing is latents": lambda m, v: (),
}


def moments(model: Net, images: Tensor) -> list[Tensor]:
    return list(model.enter(images).chunk(2, 1))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", BOTH)
def test_mean_and_log_variance_are_found(form: str, training: bool, images: Tensor) -> None:
    model = Net(BOTH[form]).train(training)
    found, (mean, log_variance) = encode(model, images), moments(model, images)
    exact(found.mean, mean)
    assert found.log_variance is not None
    torch.testing.assert_close(found.log_variance, log_variance)
    assert found.kl is None
    assert found.loss is None


@pytest.mark.parametrize("form", ONE)
def test_latents_without_a_deviation_are_found(form: str, images: Tensor) -> None:
    model = Net(ONE[form])
    found = encode(model, images)
    exact(found.mean, moments(model, images)[0])
    assert found[1:] == (None, None, None)


@pytest.mark.parametrize("form", LOSS)
def test_losses_that_the_model_counts_itself_are_found(form: str, images: Tensor) -> None:
    model = Net(LOSS[form])
    found, (mean, spread) = encode(model, images), moments(model, images)
    exact(found.mean, mean)
    assert (found.log_variance, found.kl) == (None, None)
    assert found.loss is not None
    torch.testing.assert_close(found.loss, spread.mean())
    with torch.no_grad():
        assert encode(model, images)[1:] == (None, None, None)


def test_a_kl_divergence_by_name_is_no_other_loss(images: Tensor) -> None:
    for form in (lambda m, v: {"z": m, "kl_loss": kl(m, v)}, lambda m, v: (m, {"kl": kl(m, v)})):
        found = encode(Net(form), images)
        assert found.kl is not None
        assert found.loss is None


@pytest.mark.parametrize("said", UNCLEAR)
def test_what_is_not_clear_is_said_with_what_is_wanted(said: str, images: Tensor) -> None:
    with pytest.raises(RecipeError) as caught:
        encode(Net(UNCLEAR[said]), images)
    text = str(caught.value)
    assert text.startswith(f"Net.encode returns {said.replace('LATENTS', '(3, 2, 8, 8)')}: return the latents, (mean, ")
    assert "\n" not in text


def test_looking_for_the_sample_leaves_no_trace(images: Tensor) -> None:
    model = Net(BOTH["a sample last"])
    model.norm = nn.BatchNorm2d(3)
    plain = model.encode
    model.encode = lambda x: plain(model.norm(x))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    encode(model, images)
    after = model.state_dict()
    assert int(after.pop("norm.num_batches_tracked")) == int(before.pop("norm.num_batches_tracked")) + 1
    torch.manual_seed(3)
    encode(model, images)  # the order is known by now: one call, and as many numbers drawn
    assert int(model.state_dict()["norm.num_batches_tracked"]) == 2


BACK: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda x: x,
    "a tuple": lambda x: (x, None),
    "a tuple with the loss first": lambda x: (x.mean(), x),
    "a list": lambda x: [x],
    "sample": lambda x: SimpleNamespace(sample=x),
    "a dict": lambda x: {"reconstruction": x},
    "a distribution": lambda x: Normal(x, 1.0),
}


@pytest.mark.parametrize("form", BACK)
def test_images_are_found(form: str, images: Tensor) -> None:
    model = Net(BOTH["a pair"], BACK[form])
    mean = moments(model, images)[0]
    exact(reconstruct(model, images), model.leave(mean).detach())
    loss = decode(model, mean)[1]
    assert (loss is None) == (form != "a tuple with the loss first")


def test_what_decodes_to_no_tensor_is_said() -> None:
    with pytest.raises(RecipeError, match=r"Net\.decode returns a str, in which no recipe finds a tensor"):
        decode(Net(ONE["a tensor"], lambda x: "no"), torch.zeros(1, 2, 8, 8))


def test_what_was_read_is_said_in_words() -> None:
    latents = torch.zeros(1, 2, 8, 8)
    assert latents_text(Latents(latents)) == "latents of 2x8x8"
    assert latents_text(Latents(latents, latents)) == "mean and log-variance of latents of 2x8x8"
    assert latents_text(Latents(latents, loss=latents.sum())) == "latents of 2x8x8 and a loss of its own"


SOURCE = """
import torch
from torch import nn
from torch.distributions import Normal

class Own(nn.Module):
    def __init__(self, form="pair"):
        super().__init__()
        self.form = form
        self.enter, self.inner = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.moments, self.codes = nn.Conv2d(16, 4, 1), nn.Embedding(32, 2)
        self.back, self.middle = nn.ConvTranspose2d(2, 16, 4, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.leave = nn.Conv2d(16, 3, 3, padding=1)

    def encode(self, x):
        mean, logvar = self.moments(self.inner(self.enter(x)).relu()).chunk(2, 1)
        if self.form == "pair":
            return mean, logvar
        if self.form == "normal":
            return Normal(mean, (0.5 * logvar).exp())
        flat = mean.movedim(1, -1)
        index = torch.cdist(flat.flatten(0, -2), self.codes.weight).argmin(-1).view(flat.shape[:-1])
        found = self.codes(index).movedim(-1, 1)
        loss = (found - mean.detach()).square().mean() + 0.25 * (found.detach() - mean).square().mean()
        return mean + (found - mean).detach(), loss, (None, None, index)

    def decode(self, z):
        return self.leave(self.middle(self.back(z).relu())),

    def forward(self, x):
        z = self.encode(x)
        return self.decode(z.mean if self.form == "normal" else z[0])
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(SOURCE)
    return f"{tmp_path / 'own.py'}:Own"


@pytest.mark.parametrize("form", ["pair", "normal", "taming"])
def test_own_autoencoders_train_distil_and_are_measured(
    form: str, own: str, tmp_path: Path, pictures: Path, recipe: Any, train: Any
) -> None:
    def run(*words: object) -> Any:
        ran = CliRunner().invoke(app, [str(word) for word in words])
        assert ran.exit_code == 0, ran.output
        return ran

    folder = tmp_path / "converted"
    run("convert", own, "--arg", f"form={form}", "--input", "1,3,16,16", "-o", folder)
    content = recipe(model={"source": str(folder)}, train={"steps": 3}, log={"every": 1, "validate_every": 3})
    made, told = train(content)
    rows = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["kind"] == "train")
    assert ("kl" in first, "own" in first) == (form != "taming", form == "taming")
    frozen = [event.text for event in told if event.kind == "said" and "take no part" in event.text]
    assert bool(frozen) == (form != "taming")  # whose codebook learns by the loss that encode returns
    distilled, _ = train(
        recipe(
            recipe="distillation",
            model={"source": str(folder)},
            teacher={"source": own, "arguments": {"form": form}},
            train={"steps": 2},
            loss={"output": 1.0, "perceptual": 0.0},
            output=str(tmp_path / "distilled"),
        )
        | {"loss": {"output": 1.0}}
    )
    assert (distilled / "model").is_dir()
    run("reconstruct", made, pictures / "a", "-o", tmp_path / "out", "--trust-code", "--count", 2)
    run("evaluate", made, "--data", pictures, "--count", 4, "--trust-code")
