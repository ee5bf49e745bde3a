"""diffusers' autoencoders."""

from __future__ import annotations

from ..row import Row, roles

_KL = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
_KL4 = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
_KL3 = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
_DC_TYPES = ("ResBlock", "ResBlock", "EfficientViTBlock")
_DC_FULL = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_QUANT = roles("encoder.conv_in post_quant_conv", "quant_conv decoder.conv_out")

ROWS = (
    Row(
        "AutoencoderKL (SD)",
        "diffusers:AutoencoderKL",
        {**_KL, "block_out_channels": (32, 64), "norm_num_groups": 8, "sample_size": 16},
        {**_KL4, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512},
        roles=_QUANT,
    ),
    Row(
        "AutoencoderTiny",
        "diffusers:AutoencoderTiny",
        {
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
        },
        {},
    ),
    Row(
        "VQModel (LDM)",
        "diffusers:VQModel",
        {**_KL, "block_out_channels": (32, 64), "norm_num_groups": 8, "num_vq_embeddings": 16, "sample_size": 16},
        {**_KL3, "block_out_channels": (128, 256, 512), "layers_per_block": 2, "num_vq_embeddings": 8192},
    ),
    Row(
        "AsymmetricAutoencoderKL",
        "diffusers:AsymmetricAutoencoderKL",
        {
            **_KL,
            "down_block_out_channels": (32, 64),
            "up_block_out_channels": (32, 96),
            "norm_num_groups": 8,
            "sample_size": 16,
        },
        {
            **_KL4,
            "down_block_out_channels": (128, 256, 512, 512),
            "layers_per_down_block": 2,
            "up_block_out_channels": (192, 384, 768, 768),
            "layers_per_up_block": 3,
        },
    ),
    Row(
        "AutoencoderDC (Sana)",
        "diffusers:AutoencoderDC",
        {
            "latent_channels": 4,
            "attention_head_dim": 8,
            "encoder_block_types": _DC_TYPES,
            "decoder_block_types": _DC_TYPES,
            "encoder_block_out_channels": (16, 32, 32),
            "decoder_block_out_channels": (16, 32, 32),
            "encoder_layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1),
            "encoder_qkv_multiscales": ((), (), (5,)),
            "decoder_qkv_multiscales": ((), (), (5,)),
        },
        {"encoder_block_types": _DC_FULL, "decoder_block_types": _DC_FULL},
    ),
    Row(
        "AutoencoderKLTemporalDecoder (SVD)",
        "diffusers:AutoencoderKLTemporalDecoder",
        {"down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (32, 64), "sample_size": 16},
        {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
        },
    ),
    Row(
        "AutoencoderKLWan (video)",
        "diffusers:AutoencoderKLWan",
        {"base_dim": 16, "z_dim": 16, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]},
        {},
    ),
    Row(
        "AutoencoderKLCogVideoX (video)",
        "diffusers:AutoencoderKLCogVideoX",
        {
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "block_out_channels": (16, 16, 32, 32),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_height": 32,
            "sample_width": 32,
        },
        {},
    ),
    Row(
        "AutoencoderKLMochi (video)",
        "diffusers:AutoencoderKLMochi",
        {
            "encoder_block_out_channels": (32, 32, 32, 32),
            "decoder_block_out_channels": (32, 32, 32, 32),
            "layers_per_block": (1, 1, 1, 1, 1),
        },
        {},
    ),
    Row(
        "AutoencoderKLHunyuanVideo (video)",
        "diffusers:AutoencoderKLHunyuanVideo",
        {
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
            "block_out_channels": (16, 16, 16, 16),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        {},
    ),
    Row(
        "AutoencoderKLLTXVideo (video)",
        "diffusers:AutoencoderKLLTXVideo",
        {
            "latent_channels": 8,
            "block_out_channels": (16, 16, 16, 16),
            "decoder_block_out_channels": (16, 16, 16, 16),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
        },
        {},
    ),
    Row(
        "AutoencoderKLMagvit (EasyAnimate)",
        "diffusers:AutoencoderKLMagvit",
        {
            "block_out_channels": [16, 16, 16, 16],
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        {},
    ),
    Row(
        "AutoencoderKLQwenImage",
        "diffusers:AutoencoderKLQwenImage",
        {"base_dim": 16, "z_dim": 16, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]},
        {},
    ),
    Row(
        "AutoencoderOobleck (sound)",
        "diffusers:AutoencoderOobleck",
        {
            "encoder_hidden_size": 16,
            "downsampling_ratios": [2, 4],
            "channel_multiples": [1, 2],
            "decoder_channels": 16,
            "decoder_input_channels": 16,
        },
        {},
        red={"convert": "all its convolutions are weight-normalised, and kept: the norm has to be removed first"},
    ),
)
