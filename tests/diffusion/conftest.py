"""A small denoiser and real pictures in two classes, and a recipe for the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
#: A UNet of two levels that is told one of two classes, or none.
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [16, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "num_class_embeds": 3,
}


def unet(**changes: Any) -> Any:
    return diffusers.UNet2DModel(**{**UNET, **changes})


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 crops of a photograph-like picture, 8x8, in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    for i in range(24):
        path = folder / ("ab"[i % 2]) / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        whole.crop((9 * i, 5 * i, 9 * i + 8, 5 * i + 8)).save(path)
    return folder


@dataclass(frozen=True)
class Ran:
    """What a command gave back."""

    code: int
    out: str
    err: str


@pytest.fixture
def command() -> Callable[..., Ran]:
    """`command("sample", folder, ...)` in this process."""
    from prismify.cli.main import app

    def invoke(*words: object) -> Ran:
        result = CliRunner().invoke(app, [str(word) for word in words])
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def recipe(tmp_path: Path, pictures: Path) -> Callable[..., dict[str, Any]]:
    """`recipe(train={...}, ...)`: a small recipe as plain data, written to `recipe.yaml` as well."""

    def make(**sections: Any) -> dict[str, Any]:
        content: dict[str, Any] = {
            "recipe": "diffusion",
            "model": {"source": "diffusers:UNet2DModel", "arguments": UNET, "convert": {"name": "volumes"}},
            "data": {"path": str(pictures), "size": 8, "validation": 4},
            "condition": {"kind": "class"},
            "train": {"batch_size": 4, "learning_rate": 3e-3, "steps": 4, "device": "cpu", "ema": 0.9},
            "sampling": {"steps": 2},
            "log": {"every": 1, "validate_every": 2, "tensorboard": False, "images": 4},
            "checkpoint": {"every": 2, "keep": 9},
            "output": str(tmp_path / "run"),
        }
        for name, values in sections.items():
            content[name] = {**content.get(name, {}), **values} if isinstance(values, dict) else values
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        return content

    return make
