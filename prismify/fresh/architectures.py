"""The architectures that `prismify new` makes, at any constant width. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..errors import SourceError

#: Groups of a group norm, at most.
_GROUPS = 32
#: A head of attention, in channels, where the width is a multiple of it.
_HEAD = 32


@dataclass(frozen=True)
class Architecture:
    """A model that can be made.

    Args:
        reference: what builds it.
        width: of its layers, in channels, where none is given.
        channels: of its pictures or latents, where none are given.
        size: their height and width.
        arguments: of the reference, from width, channels, size, and the number of classes (0 for none).
        summary: what it is, in a line.
    """

    reference: str
    width: int
    channels: int
    size: int
    arguments: Callable[[int, int, int, int], dict[str, Any]]
    summary: str


def _head(width: int) -> int:
    return _HEAD if width % _HEAD == 0 else width


def _groups(width: int) -> int:
    """As many as divide the width into groups of two channels and more: one value has no deviation."""
    return next(groups for groups in range(min(_GROUPS, width // 2), 0, -1) if width % groups == 0)


def _unet(levels: int, blocks: int, time: int | None) -> Callable[[int, int, int, int], dict[str, Any]]:
    """A UNet of one width, with attention in its middle.

    Args:
        time: width of the time's embedding; None is four times the model's.
    """

    def arguments(width: int, channels: int, size: int, classes: int) -> dict[str, Any]:
        made: dict[str, Any] = {
            "sample_size": size,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": [width] * levels,
            "layers_per_block": blocks,
            "down_block_types": ["DownBlock2D"] * levels,
            "up_block_types": ["UpBlock2D"] * levels,
            "norm_num_groups": _groups(width),
            "attention_head_dim": _head(width),
        }
        made |= {} if time is None else {"time_embedding_dim": time}
        return made | ({"num_class_embeds": classes + 1} if classes else {})  # the last says that none is told

    return arguments


def _vae(width: int, channels: int, size: int, classes: int) -> dict[str, Any]:
    """Table 3 of the paper: three levels, two blocks each, three latent channels."""
    return {
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": 3,
        "sample_size": size,
        "block_out_channels": [width] * 3,
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": _groups(width),
    }


def _sinddm(width: int, channels: int, size: int, classes: int) -> dict[str, Any]:
    return {"width": width, "channels": channels}


ARCHITECTURES: dict[str, Architecture] = {
    "ldm-unet": Architecture(
        "diffusers:UNet2DModel", 256, 3, 32, _unet(4, 2, None), "latent diffusion's UNet at constant width (Sec. 4.3)"
    ),
    "ldm-vae": Architecture(
        "diffusers:AutoencoderKL", 256, 3, 32, _vae, "latent diffusion's autoencoder at constant width (Table 3)"
    ),
    "ddpm-unet": Architecture(
        "diffusers:UNet2DModel", 64, 3, 32, _unet(3, 1, 32), "a small UNet for pixels or small latents"
    ),
    "sinddm": Architecture("prismify:SinDDM", 160, 3, 32, _sinddm, "SinDDM's network for one picture (Sec. 4.2)"),
}


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        SourceError: there is none.
    """
    if name not in ARCHITECTURES:
        close = get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"; close is {close[0]}" if close else f"; there are {', '.join(ARCHITECTURES)}"
        raise SourceError(f"there is no architecture {name!r}{hint}")
    return ARCHITECTURES[name]
