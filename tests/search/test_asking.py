"""What a searched model is given: images, or, of a denoiser, noised ones."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from prismify.recipes import carry_out

from prismify.errors import RecipeError
from prismify.search import read_outcome
from prismify.search.asking import asking_of
from prismify.training.recipe import recipe_from
from prismify.training.schema import Noise
from tests.search.conftest import Net


def small_unet(**more: object) -> diffusers.UNet2DModel:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        **more,
    ).eval()


def test_a_denoiser_is_asked_about_noised_images() -> None:
    model = small_unet()
    asking = asking_of(model, Noise(), torch.rand(1, 3, 16, 16))
    images = torch.rand(3, 3, 16, 16)
    noised, times = asking.inputs(images, 7)
    again, other = asking.inputs(images, 7)[0], asking.inputs(images, 8)[0]
    assert torch.equal(noised, again)
    assert not torch.equal(noised, other)
    assert times.shape == (3,)
    assert not asking.reconstructs
    with torch.no_grad():
        assert torch.equal(asking.answer(noised, times), model(noised, times).sample)


def test_other_models_are_given_the_images(net: Net) -> None:
    asking = asking_of(net, None, torch.rand(1, 3, 8, 8))
    images = torch.rand(2, 3, 8, 8)
    assert asking.inputs(images, 3)[0] is images
    assert torch.equal(asking.answer(images), net(images))


def test_what_is_told_more_is_refused(net: Net) -> None:
    probe = torch.rand(1, 3, 16, 16)
    with pytest.raises(RecipeError, match=r"told neither class nor text, of 16x16 fails .*class_labels"):
        asking_of(small_unet(num_class_embeds=3), Noise(), probe)
    with pytest.raises(RecipeError, match="no denoiser"):
        asking_of(net, Noise(), probe)
    with pytest.raises(RecipeError, match=r"UNet2DModel given images of 16x16 fails .*: set data.size; of a denoiser"):
        asking_of(small_unet(), None, probe)


def test_a_denoiser_is_searched(squares: Path, tmp_path: Path) -> None:
    small_unet().save_pretrained(tmp_path / "unet")
    content = {
        "recipe": "search",
        "model": {"source": str(tmp_path / "unet")},
        "candidates": {"27 weights": {"name": "volumes", "min_volume": 2}},
        "fitted": 4,
        "noise": {},
        "data": {"path": str(squares), "size": 16, "validation": 4},
        "train": {"batch_size": 4, "learning_rate": 1e-3, "steps": 2, "ema": None, "device": "cpu"},
        "log": {"every": 1, "tensorboard": False},
        "output": str(tmp_path / "found"),
    }
    carry_out(recipe_from(content, "recipe"))
    outcome = read_outcome(tmp_path / "found")
    assert outcome.scores.reference is None
    blocks = {entry.block for entry in outcome.entries}
    assert {"down_blocks.0.resnets.0", "mid_block.attentions.0"} <= blocks
    errors = [e for e, entry in zip(outcome.scores.error, outcome.entries, strict=True) if entry.candidate != "kept"]
    assert all(error > 0 for error in errors)
