"""The paper's Table 3 to the digit, and what the policies give on well-known models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prismify import Policy, scan
from prismify.checkpoint import Source, open_source
from prismify.scanning import build_report

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


def on_meta(name: str) -> torch.nn.Module:
    source = open_source(str(CONFIGS / name))
    assert isinstance(source, Source)
    model = source.build(empty=True)
    assert all(p.is_meta for p in model.parameters())
    return model


@pytest.mark.parametrize(
    ("width", "before", "after"),
    [
        (128, 6_358_975, 29_559),
        (256, 25_366_335, 57_847),
        (512, 101_326_399, 114_423),
        (1024, 405_027_903, 227_575),
    ],
)
def test_table_3(width, before, after):
    """42 convolutions of 28 numbers, 8 projections of 4 (with their bias), and 221*C + 63 of the rest."""
    from diffusers import AutoencoderKL

    config = json.loads((CONFIGS / "ldm-autoencoder-256" / "config.json").read_text())
    with torch.device("meta"):
        model = AutoencoderKL.from_config({**config, "block_out_channels": [width] * 3})
    plan = scan(model)
    assert (plan.parameters.before, plan.parameters.after) == (before, after)
    assert plan.parameters.after == 42 * 28 + 8 * 4 + 221 * width + 63
    convolutions = [row for row in plan.layers if row.kind == "conv2d"]
    replaced = [row for row in convolutions if row.decision == "replace"]
    assert (len(convolutions), len(replaced)) == (48, 42)
    assert {row.name for row in convolutions if row.decision == "keep"} == {
        "encoder.conv_in",
        "encoder.conv_out",
        "quant_conv",
        "post_quant_conv",
        "decoder.conv_in",
        "decoder.conv_out",
    }


def test_stable_diffusion_unet():
    model = on_meta("sd15-unet")
    paper = scan(model)
    assert paper.parameters.before == 859_520_964
    assert paper.parameters.ratio == pytest.approx(2.0, abs=0.05)
    heaviest = build_report(paper, "")["kept"][0]
    assert (heaviest["rule"], heaviest["parameters"]) == ("width_changes", 232_472_960)
    volumes = scan(model, policy="volumes")
    assert volumes.parameters.ratio == pytest.approx(4.4, abs=0.05)
    inner = [r for r in volumes.layers if r.role == "inner" and r.kernel_size == (3, 3)]
    assert inner
    assert all(r.decision == "replace" for r in inner)
    with_feed_forward = scan(model, policy=Policy("volumes", feed_forward=True))
    assert with_feed_forward.parameters.ratio == pytest.approx(18, abs=0.5)


def test_stable_diffusion_vae():
    model = on_meta("sd-vae")
    paper, volumes = scan(model), scan(model, policy="volumes")
    assert paper.parameters.before == 83_653_863
    assert paper.parameters.ratio == pytest.approx(24.7, abs=0.05)
    assert volumes.parameters.after == pytest.approx(104_000, rel=0.01)
    assert volumes.parameters.ratio == pytest.approx(800, rel=0.01)


@pytest.mark.parametrize(
    ("name", "parameters", "attentions", "inputs", "outputs"),
    [
        ("sd15-unet", 859_520_964, {"self": 16, "cross": 16}, {"conv_in"}, {"conv_out"}),
        ("sdxl-unet", 2_567_463_684, {"self": 70, "cross": 70}, {"conv_in"}, {"conv_out"}),
        ("dit-xl-2", 749_826_464, {"self": 28}, {"pos_embed.proj"}, {"proj_out_2"}),
        ("sd3-medium", 2_028_328_000, {"joint": 24}, {"pos_embed.proj"}, {"proj_out"}),
        ("flux-dev", 11_901_408_320, {"joint": 19, "self": 38}, {"x_embedder"}, {"proj_out"}),
    ],
)
def test_full_size_models_are_scanned_without_weights(name, parameters, attentions, inputs, outputs):
    plan = scan(on_meta(name))
    assert plan.parameters.before == parameters
    kinds = [row["kind"] for row in plan.attention]
    assert {kind: kinds.count(kind) for kind in kinds} == attentions
    assert {row.name for row in plan.layers if row.role == "input"} == inputs
    assert {row.name for row in plan.layers if row.role == "output"} == outputs
    assert plan.capture[0]["technique"] == "recorder on fake tensors"
    assert len({row.name for row in plan.layers}) == len(plan.layers)
