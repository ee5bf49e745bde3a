"""The whole road on one small model: convert, report, load, reconstruct. Run it with `make demo`."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import prismify

EXAMPLES = Path(__file__).parent
CONFIG = EXAMPLES / "configs" / "ldm-autoencoder-256"
PICTURE = EXAMPLES / "images" / "balloons.png"
OUTPUT = EXAMPLES.parent / "demo"


def run(*arguments: str) -> None:
    """Run the command line as a person would."""
    print(f"\n$ prismify {' '.join(arguments)}", flush=True)
    subprocess.run([str(Path(sys.executable).parent / "prismify"), *arguments], check=True)


def load_picture(path: Path, multiple: int = 4) -> torch.Tensor:
    """(1, 3, H, W) in [-1, 1], cropped to sides the autoencoder can halve twice."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
    height, width = (side // multiple * multiple for side in pixels.shape[-2:])
    return pixels[..., :height, :width].float() / 127.5 - 1


def to_image(x: torch.Tensor) -> Image.Image:
    pixels = ((x[0].clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def main() -> None:
    converted = OUTPUT / "autoencoder-256"
    run("convert", str(CONFIG), "-o", str(converted), "--force")

    model = prismify.load(converted)
    picture = load_picture(PICTURE)
    with torch.inference_mode():
        reconstruction = model(picture, sample_posterior=False).sample
    psnr = 10 * math.log10(4 / float((picture - reconstruction.clamp(-1, 1)).square().mean()))

    sheet = torch.cat([picture, reconstruction], dim=-1)
    to_image(sheet).save(OUTPUT / "reconstruction.png")
    print(f"\nOriginal and reconstruction side by side: {OUTPUT / 'reconstruction.png'} ({psnr:.1f} dB).")
    print("The model is untrained, so the reconstruction is noise: conversion changes the architecture, and")
    print("only training gives it back its pictures. recipe.yaml in its folder is where that starts.")


if __name__ == "__main__":
    main()
