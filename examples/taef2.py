"""TAEF2, the tiny autoencoder for the FLUX.2 latent space, written from its checkpoint's keys and shapes.

The weights are madebyollin's (https://github.com/madebyollin/taesd, MIT): two files, `taef2_encoder.pth` and
`taef2_decoder.pth`. Join them into one and convert that:

    python examples/taef2.py FOLDER taef2.safetensors
    prismify convert taef2.safetensors --model examples/taef2.py:TAEF2 -o taef2-prism
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

LATENT_CHANNELS = 32
WIDTH = 64


class Clamp(nn.Module):
    """Keep latents within (-3, 3), smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three 3×3 convolutions with a residual; the middle blocks first add a normalised 1×1 side branch."""

    def __init__(self, width: int, side_branch: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = None
        if side_branch:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def encoder() -> nn.Sequential:
    """Images (B, 3, H, W) in [0, 1] to latents (B, 32, H/8, W/8)."""
    down = [nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False) for _ in range(3)]
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, padding=1),
        Block(WIDTH),
        down[0],
        *(Block(WIDTH) for _ in range(3)),
        down[1],
        *(Block(WIDTH) for _ in range(3)),
        down[2],
        *(Block(WIDTH, side_branch=True) for _ in range(3)),
        nn.Conv2d(WIDTH, LATENT_CHANNELS, 3, padding=1),
    )


def decoder() -> nn.Sequential:
    """Latents (B, 32, H/8, W/8) to images (B, 3, H, W)."""

    def up() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]

    return nn.Sequential(
        Clamp(),
        nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1),
        nn.ReLU(),
        *(Block(WIDTH, side_branch=True) for _ in range(3)),
        *up(),
        *(Block(WIDTH) for _ in range(3)),
        *up(),
        *(Block(WIDTH) for _ in range(3)),
        *up(),
        Block(WIDTH),
        nn.Conv2d(WIDTH, 3, 3, padding=1),
    )


class TAEF2(nn.Module):
    """Encoder and decoder; images are (B, 3, H, W) in [0, 1], latents (B, 32, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        self.decoder = decoder()

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def joined_weights(folder: Path) -> dict[str, Tensor]:
    """The two published files as one state dict of `TAEF2`."""
    state = {}
    for half in ("encoder", "decoder"):
        part = torch.load(folder / f"taef2_{half}.pth", map_location="cpu", weights_only=True)
        state |= {f"{half}.{name}": value for name, value in part.items()}
    return state


if __name__ == "__main__":
    from safetensors.torch import save_file

    if len(sys.argv) != 3:
        sys.exit("usage: python examples/taef2.py FOLDER_WITH_BOTH_PTH_FILES OUTPUT.safetensors")
    save_file(joined_weights(Path(sys.argv[1])), sys.argv[2])
