"""Denoisers that are told a text: captions beside images, and a pipeline shaped as Stable Diffusion 1.5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import prismify
from prismify.checkpoint.hub import needed_files
from prismify.errors import PrismifyError
from prismify.publishing.contents import contents_of
from prismify.training.data import Shares, open_data, open_images, told_batches
from prismify.training.schema import Data

transformers = pytest.importorskip("transformers", reason="transformers, which reads texts, is not installed")
WIDTH = 16


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5's parts, 16 channels wide: UNet with cross-attention, VAE, CLIP's text encoder."""
    folder = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(WIDTH, WIDTH), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=32, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(WIDTH, WIDTH), norm_num_groups=4, latent_channels=4, sample_size=16, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words += list("abcdefghijklmnopqrstuvwxyz")
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae, transformers.CLIPTextModel(config), tokenizer, unet, scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "sd")
    return folder / "sd"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    whole = Image.open(Path(__file__).parents[2] / "examples" / "images" / "balloons.png").convert("RGB")
    for i in range(10):
        whole.crop((9 * i, 5 * i, 9 * i + 16, 5 * i + 16)).save(folder / f"{i}.png")
        if i % 2:
            (folder / f"{i}.txt").write_text(f" picture {'abcdefghij'[i]}\n")
    return folder


def test_captions_lie_beside_their_images(captioned: Path, tmp_path: Path) -> None:
    images = open_images(Data(path=str(captioned)))
    assert images.captions is not None
    assert [images.captions(i) for i in range(4)] == ["", "picture b", "", "picture d"]
    stream, _ = open_data(Data(path=str(captioned), validation=2, size=16), 0)
    assert next(told_batches(stream, Shares(8, 1, 1, 0), 0)).captions is None  # which nobody asked for
    stream.reads_captions = True
    batch = next(told_batches(stream, Shares(8, 1, 1, 0), 0))
    assert batch.captions is not None
    assert sorted(filter(None, batch.captions)) == sorted({*filter(None, batch.captions)})
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), captions=np.array(["one", "two"]))
    held = open_images(Data(path=str(tmp_path / "a.npz"))).subset([1])
    assert held.captions is not None
    assert held.captions(0) == "two"


def test_stable_diffusion_is_converted_distilled_and_sampled_by_its_own_pipeline(
    stable_diffusion: Path,
    captioned: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = tmp_path / "small"
    assert command("convert", stable_diffusion, "--policy", "volumes", "-o", small).code == 0
    recipe = small / "unet" / "recipe.yaml"
    content = yaml.safe_load(recipe.read_text())
    assert (content["recipe"], content["condition"]["kind"]) == ("diffusion", "text")
    ran = command("train", recipe)
    assert "condition: kind text and encoder, the folder of a pipeline, go together" in ran.err
    sets = [f"condition.encoder={small}", f"autoencoder={stable_diffusion / 'vae'}", "latents.scale=own",
            f"data.path={captioned}", "data.size=16", "data.validation=2", "noise.schedule=scaled_linear",
            "noise.beta_start=0.00085", "noise.beta_end=0.012", "distil={}", f"teacher={stable_diffusion / 'unet'}",
            "train.steps=4", "train.batch_size=4", "train.device=cpu", "log.validate_every=4", "log.images=2",
            "sampling.steps=2", "sampling.guidance=2.0", f"output={tmp_path / 'run'}"]  # fmt: skip
    ran = command("train", recipe, *(word for change in sets for word in ("--set", change)))
    assert ran.code == 0, ran.err
    assert "error to teacher" in ran.err.replace("_", " ")

    pipeline = prismify.load_pipeline(small, unet=tmp_path / "run" / "model")
    assert type(pipeline) is diffusers.StableDiffusionPipeline
    assert pipeline.unet.prismify_plan.replaced
    pipeline.set_progress_bar_config(disable=True)
    made = [
        pipeline(text, num_inference_steps=2, generator=torch.manual_seed(0), output_type="np", height=16, width=16)
        for text in ("a balloon", "b")
    ]
    assert all(one.images.shape == (1, 16, 16, 3) and np.isfinite(one.images).all() for one in made)
    assert not np.allclose(made[0].images, made[1].images)

    words = ["sample", tmp_path / "run", "-n", "2", "--steps", "2", "--prompt", "a balloon", "--guidance", "3"]
    ran = command(*words, "-o", tmp_path / "made")
    assert ran.code == 0, ran.err
    facts = json.loads((tmp_path / "made" / "samples.json").read_text())
    assert (facts["prompt"], facts["width"]) == ("a balloon", 16)
    # A repository of it holds what it needs, and every file of that is downloaded again.
    contents = contents_of(tmp_path / "run" / "model", "owner/name")
    place = tmp_path / "pushed"
    for name in needed_files(contents, "owner/name"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(c if isinstance(c := contents[name], bytes) else c.read_bytes())
    assert set(contents) - set(needed_files(contents, "owner/name")) <= {"report.md", "report.html"}
    assert str(tmp_path) not in (place / "denoising.json").read_text()
    small.rename(tmp_path / "gone")
    (tmp_path / "run").rename(tmp_path / "gone-as-well")
    elsewhere = [*words[:1], place, *words[2:]]
    monkeypatch.chdir(tmp_path)
    shutil.move(stable_diffusion / "vae", tmp_path / "vae")
    try:
        ran = command(*elsewhere, "-o", tmp_path / "again")
        assert ran.code == 0, ran.err
        again = json.loads((tmp_path / "again" / "samples.json").read_text())
        with pytest.raises(PrismifyError, match=r"names its autoencoder .*vae, which is no folder here"):
            contents_of(tmp_path / "gone-as-well" / "model", "owner/name")
    finally:
        shutil.move(tmp_path / "vae", stable_diffusion / "vae")
    assert again["prompt"] == "a balloon"
    assert (tmp_path / "again" / "0000.png").read_bytes() == (tmp_path / "made" / "0000.png").read_bytes()
    small = tmp_path / "gone"
    with pytest.raises(PrismifyError, match="has no part 'decoder': it has"):
        prismify.load_pipeline(small, decoder=tmp_path)
    with pytest.raises(PrismifyError, match="holds one model and no pipeline"):
        prismify.load_pipeline(small / "unet")


def test_an_encoder_that_is_none_is_one_line(tmp_path: Path, stable_diffusion: Path) -> None:
    from prismify.families.text_encoders import open_text_encoder

    with pytest.raises(PrismifyError, match="has no tokenizer: name the folder of a pipeline that has both"):
        open_text_encoder(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text('{"architectures": ["AutoConfig"], "model_type": "clip"}')
    with pytest.raises(PrismifyError, match="AutoConfig, which is no model of transformers") as caught:
        open_text_encoder(tmp_path)
    assert "\n" not in str(caught.value)
