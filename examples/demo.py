"""The whole road: convert, report, load, reconstruct and sample with trained models. Run it with `make demo`."""

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
#: They come with prismify; docs/results.md says how they were trained.
TRAINED, DENOISER = "cifar10-ae-64", "mnist-ddpm-64"
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


def reconstruct(model: torch.nn.Module, picture: torch.Tensor) -> tuple[torch.Tensor, float]:
    """A picture through an autoencoder, and how close it comes, in dB."""
    with torch.inference_mode():
        output = model(picture, sample_posterior=False).sample.clamp(-1, 1)
    return output, 10 * math.log10(4 / float((picture - output).square().mean()))


def main() -> None:
    converted = OUTPUT / "autoencoder-256"
    run("convert", str(CONFIG), "-o", str(converted), "--force")

    print("\nreconstructing a picture by the model just converted, and by a trained one ...", flush=True)
    picture = load_picture(PICTURE)
    fresh, fresh_psnr = reconstruct(prismify.load(converted), picture)
    trained_model = prismify.load(TRAINED)
    trained, trained_psnr = reconstruct(trained_model, picture)
    to_image(torch.cat([picture, fresh, trained], dim=-1)).save(OUTPUT / "reconstruction.png")

    parameters = sum(p.numel() for p in trained_model.parameters())
    print(f"\n{OUTPUT / 'reconstruction.png'} shows, from left to right:")
    print("  the picture;")
    print(f"  what the model just converted makes of it ({fresh_psnr:.1f} dB): a new architecture, untrained;")
    print(f"  what {TRAINED} makes of it ({trained_psnr:.1f} dB): {parameters:,} parameters, trained on a CPU.")
    run("sample", DENOISER, "-n", "40", "--steps", "25", "--guidance", "2.5", "-o", str(OUTPUT / "digits"))
    print("\nTraining gives a converted model back its pictures; recipe.yaml in its folder is where that starts:")
    print(f"  prismify train {converted / 'recipe.yaml'} --set data.path=FOLDER_OF_IMAGES")


if __name__ == "__main__":
    main()
