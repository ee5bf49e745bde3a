"""Numbers that cannot train are told when the recipe is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismify.errors import RecipeError
from prismify.training.recipe import read_recipe
from tests.training.test_schema import MINIMAL

NO_NUMBER = (".nan", ".inf", "-.inf")
POSITIVE = (
    "train.learning_rate", "train.clip", "train.eps", "train.max_minutes", "train.divergence", "data.white",
    "loss.discriminator.learning_rate",
)  # fmt: skip
NOT_NEGATIVE = (
    "train.weight_decay", "train.final_rate", "train.ema", "train.rates.kernel", "train.rates.norm",
    "train.rates.dense", "loss.perceptual", "loss.kl", "loss.adversarial",
)  # fmt: skip
COUNTS = {
    "train.batch_size": 1, "train.accumulation": 1, "train.steps": 1, "train.warmup_steps": 0, "train.seed": 0,
    "data.size": 1, "data.max_pixels": 1, "data.validation": 0, "data.workers": 0, "log.every": 1, "log.images": 0,
    "log.validate_every": 1, "checkpoint.every": 1, "checkpoint.keep": 1, "loss.adversarial_start": 0,
    "loss.discriminator.channels": 8, "loss.discriminator.layers": 1,
}  # fmt: skip
WRONG = [
    *((key, value) for key in (*POSITIVE, *NOT_NEGATIVE) for value in (*NO_NUMBER, "-1")),
    *((key, "0") for key in POSITIVE),
    *((key, value) for key, least in COUNTS.items() for value in (str(least - 1), "1" + "0" * 30)),
    *((key, f"[{pair}]") for key in ("train.betas", "data.range") for pair in (".nan, 1", "0, .nan", "-.inf, .inf")),
    ("train.betas", "[2, 3]"), ("train.betas", "[0.9, 1]"), ("train.betas", "[-0.1, 0.9]"), ("train.betas", "[0.9]"),
    ("train.ema", "1"), ("train.final_rate", "1.5"), ("train.divergence", "1"), ("data.range", "[-1e300, 1e300]"),
    ("data.range", "[1, 1]"), ("data.channels", "2"),
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(file: Path, *sets: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(file, sets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda text: text[:40])
def test_a_number_out_of_range_is_named(file: Path, key: str, value: str) -> None:
    said = refusal(file, f"{key}={value}")
    section, name = key.split(".")[-2:]
    assert f"{section}: {name} " in said
    assert f"{section}: {section}: " not in said


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        (["train.clip=0"], "train: clip 0 must be a positive number; null leaves gradients as they are"),
        (["train.learning_rate=-1e-4"], "train: learning_rate -0.0001 must be a positive number"),
        (["train.betas=[2, 3]"], "train: betas [2, 3] must each be 0 or a number below 1"),
        (["train.learning_rate=null", "train.base_learning_rate=0"], "base_learning_rate 0 must be a positive number"),
        (["train.learning_rate=null", "train.base_learning_rate=1e308"], "1e+308 x batch_size is no number"),
        (["train.steps=null", "train.epochs=0"], "train: epochs 0 must be a positive number, at most"),
        (["train.steps=null", "train.epochs=.nan"], "train: epochs nan must be a positive number"),
        (["train.seed=18446744073709551616"], "train: seed 18446744073709551616 must be at most 9223372036854775807"),
        (["recipe=distillation", "loss.output=-1"], "loss: output -1 must be 0 or a positive number; 0 leaves it out"),
        (["recipe=distillation", "loss={output: 0, latent: 0}"], "are all 0, so that nothing is trained"),
        (["train.rates={kernel: 0, norm: 0, dense: 0}"], "rates: kernel, norm and dense are all 0, so that nothing"),
        (["train.rates={operators: {Tucker: -1}}"], "rates: operators: Tucker -1 must be 0 or a positive number"),
        (["recipe=[1]"], "recipe [1] is not one of autoencoder, distillation"),
    ],
)  # fmt: skip
def test_it_is_said_what_was_found_and_what_is_wanted(file: Path, sets: list[str], why: str) -> None:
    assert why in refusal(file, *sets)


def test_the_ends_of_the_ranges_are_taken(file: Path) -> None:
    sets = [f"{key}={least}" for key, least in COUNTS.items()]
    sets += [f"{key}=0" for key in NOT_NEGATIVE if key != "train.rates.kernel"]
    sets += ["train.betas=[0, 0]", "train.final_rate=1", f"data.max_pixels={2**40}", f"train.seed={2**63 - 1}"]
    recipe = read_recipe(file, sets)
    assert (recipe.train.betas, recipe.train.final_rate, recipe.train.seed) == ((0, 0), 1, 2**63 - 1)
    for key in ("train.clip", "train.ema", "train.max_minutes", "data.white", "loss.discriminator.learning_rate"):
        read_recipe(file, [f"{key}=null"])
