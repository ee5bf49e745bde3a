"""`prismify new`: the paper's architectures, counted, and every one of them ready to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import prismify
from prismify.checkpoint import open_source
from prismify.errors import PrismifyError
from prismify.facts import parameter_count
from prismify.fresh import ARCHITECTURES, architecture, make_folder
from prismify.plan import Policy
from prismify.training.recipe import read_recipe


def built(name: str, width: int, classes: int = 0) -> Any:
    one = architecture(name)
    return open_source(one.reference, arguments=one.arguments(width, one.channels, one.size, classes)).build()


def test_the_unet_of_latent_diffusion_is_counted_with_and_without_time_layers() -> None:
    """Sec. 4.3 prints 37.9M without time layers, and about 500 times fewer converted; it does not give the levels."""
    dense = built("ldm-unet", 256)
    small = prismify.convert(dense, policy=Policy(name="volumes"))

    def count(model: Any, *words: str) -> int:
        names = [(n, p.numel()) for n, p in model.named_parameters() if "time_emb" not in n and "norm" not in n]
        return sum(size for name, size in names if any(word in name for word in words))

    def without_time(model: Any) -> int:
        return sum(p.numel() for n, p in model.named_parameters() if "time_emb" not in n)

    assert (parameter_count(dense), parameter_count(small)) == (45_550_339, 7_131_147)  # 6.4 times: time layers stay
    assert (without_time(dense), without_time(small)) == (38_464_771, 45_579)  # 844 times
    layers = ("conv", "to_q", "to_k", "to_v", "to_out")
    assert count(dense, *layers) / count(small, *layers) > 300


def test_the_autoencoder_is_that_of_table_3() -> None:
    with torch.device("meta"):
        assert parameter_count(built("ldm-vae", 256)) == 25_366_335


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("policy", [None, "volumes"])
def test_what_is_made_has_a_recipe_that_reads(tmp_path: Path, name: str, policy: Any) -> None:
    classes = 2 if "unet" in name else 0
    made = make_folder(
        name, tmp_path / "new", width=32, size=16, classes=classes, policy=policy and Policy(name=policy)
    )  # fmt: skip
    recipe = read_recipe(tmp_path / "new" / "recipe.yaml")
    assert recipe.recipe == ("autoencoder" if name == "ldm-vae" else "diffusion")
    assert made["parameters"] < made["dense_parameters"] or policy is None
    if policy is not None:
        assert parameter_count(prismify.load(tmp_path / "new")) == made["parameters"]
    if classes:
        assert recipe.condition.kind == "class"  # type: ignore[attr-defined]
    again = make_folder(
        name, tmp_path / "again", width=32, size=16, classes=classes, policy=policy and Policy(name=policy)
    )
    weights = [sorted((tmp_path / folder).glob("*.safetensors")) for folder in ("new", "again")]
    assert [p.read_bytes() for p in weights[0]] == [p.read_bytes() for p in weights[1]]  # of one seed
    assert again == made
    with pytest.raises(PrismifyError, match=r"new exists; add --force to replace it"):
        make_folder(name, tmp_path / "new", width=16, size=16, policy=policy and Policy(name=policy))
    forced = make_folder(
        name, tmp_path / "new", width=16, size=16, policy=policy and Policy(name=policy), force=True
    )  # fmt: skip
    assert forced["parameters"] != made["parameters"]


def test_the_command_line_makes_lists_and_refuses(tmp_path: Path) -> None:
    from prismify.cli.main import app

    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["new", *(str(word) for word in words)])

    assert all(name in run("--list").stdout for name in ARCHITECTURES)
    ran = run("ddpm-unet", "-o", tmp_path / "small", "--policy", "volumes", "--width", 16)
    assert ran.exit_code == 0, ran.output
    assert "of the dense" in ran.stdout
    assert f"next: prismify train {tmp_path / 'small' / 'recipe.yaml'}" in ran.stderr
    for words, message in (
        (["ddpm-net", "-o", tmp_path / "x"], "there is no architecture 'ddpm-net'; close is ddpm-unet"),
        (["ldm-vae", "-o", tmp_path / "x", "--classes", 3], "ldm-vae is told no classes: leave --classes out"),
        (["sinddm", "-o", tmp_path / "x", "--width", 7], "width 7 must be even"),
        (["ddpm-unet", "-o", tmp_path / "small"], "exists"),
        ([], "name what to make and where"),
    ):
        ran = run(*words)
        assert ran.exit_code == (1 if words else 2)
        assert message in ran.stderr
        assert len(ran.stderr.strip().splitlines()) == 1
    with pytest.raises(PrismifyError, match="there is no architecture"):
        architecture("gan")
