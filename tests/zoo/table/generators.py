"""Networks written from their papers, in tests/zoo/nets: GAN generators, restoration, flows, single images, CompVis."""

from __future__ import annotations

from ..row import Row, roles

_NETS = "tests/zoo/nets"
_TIME = "time_embed.* *.emb_layers.*"
_UNET = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "num_heads": 2}
_GUIDED = {"in_channels": 3, "out_channels": 6, "context_dim": None, "scale_shift": True}
_GUIDED_FULL = {
    **_GUIDED,
    "model_channels": 256,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "attention": (3, 4, 5),
    "num_heads": 4,
}

ROWS = (
    Row(
        "DCGAN",
        f"{_NETS}/gan.py:DCGAN",
        {"latent": 24, "width": 16, "image": 32},
        {},
        inputs={"input": (1, 24, 1, 1)},
        full_inputs={"input": (1, 100, 1, 1)},
        roles=roles("0", "9"),
    ),
    Row(
        "StyleGAN2",
        f"{_NETS}/gan.py:StyleGAN2",
        {"latent": 32, "width": 32, "image": 16, "mapping": 3},
        {},
        inputs={"z": (1, 32)},
        full_inputs={"z": (1, 512)},
        # Every picture of the skip connection is enlarged and added, by no other layer: all are outputs.
        roles=roles("mapping.0", "first_rgb rgb.0 rgb.1"),
    ),
    Row(
        "BigGAN",
        f"{_NETS}/gan.py:BigGAN",
        {"latent": 24, "width": 16, "image": 16, "classes": 5},
        {},
        inputs={"z": (1, 24), "y": ("int", 1)},
        full_inputs={"z": (1, 120), "y": ("int", 1)},
    ),
    Row(
        "pix2pix U-Net",
        f"{_NETS}/gan.py:Pix2PixUNet",
        {"width": 16, "depth": 5},
        {},
        roles=roles("down.0", "up.4"),
        full_inputs={"x": (1, 3, 256, 256)},
    ),
    Row("CycleGAN", f"{_NETS}/gan.py:CycleGAN", {"width": 16, "blocks": 2}, {}, roles=roles("head", "tail")),
    Row(
        "DnCNN",
        f"{_NETS}/restoration.py:DnCNN",
        {"width": 16, "depth": 5},
        {},
        roles=roles("body.0", "body.11"),
    ),
    Row(
        "SRVGG (Real-ESRGAN compact)",
        f"{_NETS}/restoration.py:SRVGG",
        {"width": 16, "convolutions": 3},
        {},
        roles=roles("body.0", "body.8"),
    ),
    Row(
        "RRDB (ESRGAN)",
        f"{_NETS}/restoration.py:RRDB",
        {"width": 16, "growth": 8, "blocks": 1},
        {},
        roles=roles("conv_first", "conv_last"),
    ),
    Row(
        "RCAN",
        f"{_NETS}/restoration.py:RCAN",
        {"width": 16, "groups": 2, "blocks": 2, "reduction": 4},
        {},
        roles=roles("head", "tail"),
    ),
    Row(
        "NAFNet",
        f"{_NETS}/restoration.py:NAFNet",
        {"width": 16, "blocks": (1, 2), "middle": 1},
        {},
        roles=roles("intro", "ending"),
    ),
    Row(
        "Glow",
        f"{_NETS}/flows.py:Glow",
        {"width": 16, "levels": 2, "steps": 2},
        {},
        # Latents split off early pass through no further layer, but their other half does.
        roles=roles("levels.0.0.rotation", "levels.1.1.coupling.net.4"),
    ),
    Row(
        "RealNVP",
        f"{_NETS}/flows.py:RealNVP",
        {"width": 16, "blocks": 2, "couplings": 2},
        {},
        roles=roles("nets.0.head", "nets.1.tail"),
    ),
    Row(
        "SinGAN",
        f"{_NETS}/single_image.py:SinGAN",
        {"width": 16, "scales": 3, "image": 16},
        {},
        inputs={"noise": (1, 3, 16, 16)},
        full_inputs={"noise": (1, 3, 250, 250)},
        roles=roles("generators.0.0", "generators.2.12"),
    ),
    Row(
        "SinDDM",
        "prismify:SinDDM",
        {"width": 40},
        {},
        roles=roles("blocks.0.depthwise blocks.0.shortcut", "out", "time.* *.time.*"),
    ),
    Row(
        "CompVis autoencoder (LDM)",
        f"{_NETS}/compvis.py:AutoencoderKL",
        {"ch": 32, "ch_mult": (1, 2), "blocks": 1},
        {},
        roles=roles("encoder.conv_in post_quant_conv", "quant_conv decoder.conv_out"),
    ),
    Row(
        "CompVis UNet (LDM)",
        f"{_NETS}/compvis.py:UNetModel",
        {**_UNET, "attention": (0, 1), "context_dim": 24},
        {},
        inputs={"x": (1, 4, 16, 16), "timesteps": (1,), "context": (1, 7, 24)},
        full_inputs={"x": (1, 4, 64, 64), "timesteps": (1,), "context": (1, 77, 768)},
        roles=roles("input_blocks.0.0", "out.2", f"{_TIME} *.attn2.to_k *.attn2.to_v"),
    ),
    Row(
        "guided diffusion UNet, heads outside",
        f"{_NETS}/compvis.py:UNetModel",
        {**_UNET, **_GUIDED, "attention": (1,), "order": "legacy"},
        {**_GUIDED_FULL, "order": "legacy"},
        inputs={"x": (1, 3, 16, 16), "timesteps": (1,)},
        full_inputs={"x": (1, 3, 64, 64), "timesteps": (1,)},
        roles=roles("input_blocks.0.0", "out.2", _TIME),
    ),
    Row(
        "guided diffusion UNet, heads inside",
        f"{_NETS}/compvis.py:UNetModel",
        {**_UNET, **_GUIDED, "attention": (1,), "order": "new"},
        {**_GUIDED_FULL, "order": "new"},
        inputs={"x": (1, 3, 16, 16), "timesteps": (1,)},
        full_inputs={"x": (1, 3, 64, 64), "timesteps": (1,)},
        roles=roles("input_blocks.0.0", "out.2", _TIME),
    ),
)
