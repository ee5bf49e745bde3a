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


def test_a_denoiser_with_classes_is_told_any_of_them() -> None:
    model = small_unet(num_class_embeds=3)
    asking = asking_of(model, Noise(), torch.rand(1, 3, 16, 16))
    noised, times, labels = asking.inputs(torch.rand(64, 3, 16, 16), 7)
    assert set(labels.tolist()) == {0, 1, 2}
    assert torch.equal(labels, asking.inputs(torch.rand(64, 3, 16, 16), 7)[2])
    inputs = (noised[:2], times[:2], labels[:2])
    with torch.no_grad():
        assert torch.equal(asking.answer(*inputs), model(inputs[0], inputs[1], class_labels=inputs[2]).sample)


def told_texts() -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
    ).eval()


def test_what_is_told_more_is_refused(net: Net) -> None:
    probe = torch.rand(1, 3, 16, 16)
    with pytest.raises(RecipeError, match=r"told no text, of 16x16 in 3 channels fails .*encoder_hidden_states"):
        asking_of(told_texts(), Noise(), probe)
    with pytest.raises(RecipeError, match="no denoiser"):
        asking_of(net, Noise(), probe)
    with pytest.raises(
        RecipeError,
        match=r"UNet2DModel given images of 16x16 in 3 channels fails .*: set data.size, or data.channels; of a deno",
    ):
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
