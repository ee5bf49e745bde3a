"""What the libraries' models ask for beside their data: rules that guess example inputs, by argument and by class.

Plain data. Nothing here imports a library: a rule reads a model's config through `Hints`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

#: Sequence length of text and other context inputs. A prime, so that it cannot be taken for another axis.
CONTEXT_LENGTH = 7
#: Images that come as packed tokens are this many tokens high and wide.
_SIDE = 4


class Hints(Protocol):
    """What a rule may ask about a model."""

    def get(self, *keys: str) -> Any:
        """The first of `keys` that the config, or the model itself, has set; the first item of a list."""

    def list(self, key: str) -> list[int]:
        """A config field that is a list of numbers; empty where there is none."""

    def number(self, *keys: str) -> int | None:
        """`get`, where that is a positive integer."""

    def size(self, largest: int = 64) -> int:
        """Height and width of the model's pictures, at most `largest`."""

    def noise(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same every time."""

    def takes(self, argument: str) -> bool:
        """Whether the model's forward has this argument."""


Rule = Callable[[Hints], Any]


def rules_by_class(model: nn.Module) -> dict[str, Rule]:
    """The rules for a library's own model (or a subclass of one) by argument; they hold for optional ones, too."""
    for kind in type(model).__mro__:
        found = MODELS.get(f"{kind.__module__.split('.')[0]}.{kind.__name__}")
        if found is not None:
            return found
    return {}


def _width(hints: Hints, *keys: str) -> int:
    return hints.number(*keys) or 1


def _tokens(*keys: str) -> Rule:
    """A picture as packed tokens, shape (1, N, width)."""
    return lambda hints: hints.noise(1, _SIDE**2, _width(hints, *keys))


def _text(*keys: str) -> Rule:
    """A text, shape (1, L, width), where the model has a width for it."""
    return lambda hints: hints.noise(1, CONTEXT_LENGTH, width) if (width := hints.number(*keys)) else None


def _vector(*keys: str) -> Rule:
    """A pooled text or the like, shape (1, width), where the model has a width for it."""
    return lambda hints: hints.noise(1, width) if (width := hints.number(*keys)) else None


def _ones(hints: Hints) -> Tensor:
    return torch.ones(1, CONTEXT_LENGTH, dtype=torch.long)


def _constant(value: Any) -> Rule:
    return lambda hints: value


def _packed_image(hints: Hints) -> Tensor | None:
    """Models that ask for the ids of positions (Flux) take the picture as packed tokens."""
    return _tokens("in_channels")(hints) if hints.takes("img_ids") and hints.number("in_channels") else None


def _ids(length: int) -> Rule:
    """Flux: a position is three numbers; as many as the rotary embedding has axes."""
    return lambda hints: torch.zeros(length, len(hints.list("axes_dims_rope")) or 3)


def _added_conditions(hints: Hints) -> dict[str, Any] | None:
    """SDXL, DeepFloyd and Kandinsky 2 by `addition_embed_type`; PixArt by `use_additional_conditions`."""
    kind = hints.get("addition_embed_type")
    if kind == "text_time":
        ids = hints.number("addition_time_embed_dim") or 0
        width = (hints.number("projection_class_embeddings_input_dim") or 0) - 6 * ids
        return {"text_embeds": hints.noise(1, width), "time_ids": torch.zeros(1, 6)} if width > 0 else None
    if kind in ("image", "image_hint"):
        size = 8 * hints.size()
        return {"image_embeds": hints.noise(1, _width(hints, "encoder_hid_dim")), "hint": hints.noise(1, 3, size, size)}
    wanted = hints.get("use_additional_conditions")
    if wanted is None:
        return None
    if wanted:
        return {"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)}
    return {"resolution": None, "aspect_ratio": None}


def _control(hints: Hints) -> Tensor:
    """A ControlNet's picture is eight times the size of its latents."""
    size = 8 * hints.size()
    return hints.noise(1, hints.number("conditioning_channels") or 3, size, size)


#: Arguments whose meaning the libraries share, whatever the model.
ARGUMENTS: dict[str, Rule] = {
    "hidden_states": _packed_image,
    "img_ids": _ids(_SIDE**2),
    "txt_ids": _ids(CONTEXT_LENGTH),
    "guidance": lambda hints: torch.full((1,), 5.0) if hints.get("guidance_embeds") else None,
    "pooled_projections": _vector("pooled_projection_dim"),
    "pooled_text_emb": _vector("cond_embed_dim"),
    "proj_embedding": _vector("embedding_proj_dim", "embedding_dim"),
    "added_cond_kwargs": _added_conditions,
    "controlnet_cond": _control,
    "num_frames": _constant(1),
}
#: Those of them that are filled in though they default to None, because models need them.
WANTED = {"pooled_projections", "added_cond_kwargs", "guidance", "img_ids", "txt_ids"}


def _cogvideox_video(hints: Hints) -> Tensor:
    """Learned positions fit one size of video only."""
    frames, height, width = 4, 16, 16
    if hints.get("use_learned_positional_embeddings"):
        frames = (_width(hints, "sample_frames") - 1) // _width(hints, "temporal_compression_ratio") + 1
        height, width = _width(hints, "sample_height"), _width(hints, "sample_width")
    return hints.noise(1, frames, _width(hints, "in_channels"), height, width)


def _prior_text(hints: Hints) -> Tensor | None:
    if hints.get("encoder_hid_proj_type") is None:
        return None
    return hints.noise(1, _width(hints, "num_embeddings"), _width(hints, "embedding_dim"))


def _hunyuan_text(length: str, width: str) -> Rule:
    return lambda hints: hints.noise(1, _width(hints, length), _width(hints, width))


def _hunyuan_mask(length: str) -> Rule:
    return lambda hints: torch.ones(1, _width(hints, length), dtype=torch.long)


def _hunyuan_rotation(hints: Hints) -> tuple[Tensor, Tensor]:
    shape = (hints.size() // _width(hints, "patch_size")) ** 2, _width(hints, "attention_head_dim")
    return torch.ones(shape), torch.zeros(shape)


def _stable_audio_rotation(hints: Hints) -> tuple[Tensor, Tensor]:
    """One position a sample, and one for the global token."""
    shape = _width(hints, "sample_size") + 1, _width(hints, "attention_head_dim") // 2
    return torch.ones(shape), torch.zeros(shape)


def _square(*keys: str) -> Rule:
    return lambda hints: hints.noise(1, _width(hints, *keys), hints.size(), hints.size())


_HUNYUAN_DIT: dict[str, Rule] = {
    "hidden_states": _square("in_channels"),
    "encoder_hidden_states": _hunyuan_text("text_len", "cross_attention_dim"),
    "encoder_hidden_states_t5": _hunyuan_text("text_len_t5", "cross_attention_dim_t5"),
    "text_embedding_mask": _hunyuan_mask("text_len"),
    "text_embedding_mask_t5": _hunyuan_mask("text_len_t5"),
    "image_meta_size": lambda hints: torch.full((1, 6), 64.0),
    "style": lambda hints: torch.zeros(1, dtype=torch.long),
    "image_rotary_emb": _hunyuan_rotation,
}
_COGVIEW_SIZES: dict[str, Rule] = dict.fromkeys(
    ("original_size", "target_size", "crop_coords"), lambda hints: torch.full((1, 2), 64.0)
)
#: What one model alone asks for, by library and class.
MODELS: dict[str, dict[str, Rule]] = {
    "diffusers.AutoencoderOobleck": {
        "sample": lambda h: h.noise(1, _width(h, "audio_channels"), 4 * prod(h.list("downsampling_ratios")))
    },
    "diffusers.CogVideoXTransformer3DModel": {
        "hidden_states": _cogvideox_video,
        "encoder_hidden_states": lambda h: h.noise(1, _width(h, "max_text_seq_length"), _width(h, "text_embed_dim")),
    },
    "diffusers.CogView4Transformer2DModel": _COGVIEW_SIZES,
    "diffusers.HunyuanDiT2DModel": _HUNYUAN_DIT,
    "diffusers.I2VGenXLUNet": {
        "sample": lambda h: h.noise(1, _width(h, "in_channels"), 2, 32, 32),
        "fps": lambda h: torch.full((1,), 16.0),
        "image_latents": lambda h: h.noise(1, _width(h, "in_channels"), 2, 32, 32),
        "image_embeddings": _vector("cross_attention_dim"),
    },
    "diffusers.Kandinsky3UNet": {"encoder_attention_mask": _ones},
    "diffusers.LTXVideoTransformer3DModel": {
        "hidden_states": _tokens("in_channels"),
        "num_frames": _constant(1),
        "height": _constant(_SIDE),
        "width": _constant(_SIDE),
    },
    "diffusers.PriorTransformer": {
        "hidden_states": _vector("embedding_dim"),
        "encoder_hidden_states": _prior_text,
    },
    "diffusers.QwenImageTransformer2DModel": {
        "hidden_states": _tokens("in_channels"),
        "encoder_hidden_states_mask": _ones,
        "img_shapes": _constant([[(1, _SIDE, _SIDE)]]),
    },
    "diffusers.StableAudioDiTModel": {
        "hidden_states": lambda h: h.noise(1, _width(h, "in_channels"), _width(h, "sample_size")),
        "encoder_hidden_states": _text("cross_attention_input_dim"),
        "global_hidden_states": lambda h: h.noise(1, 1, _width(h, "global_states_input_dim")),
        "rotary_embedding": _stable_audio_rotation,
    },
    "diffusers.StableCascadeUNet": {
        "clip_text_pooled": lambda h: h.noise(1, 1, _width(h, "clip_text_pooled_in_channels")),
        "clip_text": _text("clip_text_in_channels"),
        "clip_img": _text("clip_image_in_channels"),
        "effnet": lambda h: h.noise(1, n, 16, 16) if (n := h.number("effnet_in_channels")) else None,
    },
    "diffusers.UNetMotionModel": {
        "sample": lambda h: h.noise(1, _width(h, "in_channels"), 2, 32, 32),
        # A text for each frame.
        "encoder_hidden_states": lambda h: h.noise(2, CONTEXT_LENGTH, _width(h, "cross_attention_dim")),
    },
    "diffusers.UNetSpatioTemporalConditionModel": {
        "sample": lambda h: h.noise(1, 2, _width(h, "in_channels"), 32, 32),
        "added_time_ids": lambda h: torch.ones(
            1, _width(h, "projection_class_embeddings_input_dim") // _width(h, "addition_time_embed_dim")
        ),
    },
    "diffusers.UVit2DModel": {
        "input_ids": lambda h: torch.zeros(1, 16, 16, dtype=torch.long),
        "micro_conds": lambda h: torch.ones(1, _width(h, "micro_cond_embed_dim") // _width(h, "micro_cond_encode_dim")),
    },
}
