"""A small converted autoencoder, real pictures cut from the repository's own, and a recipe for the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from PIL import Image

import prismify

ROOT = Path(__file__).parents[2]
SIZE = 16
Train = Callable[..., tuple[Path, list[Any]]]
Recipe = Callable[..., dict[str, Any]]


def records(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    """What a run noted of one kind."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def small_autoencoder() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=2,
        sample_size=SIZE,
    ).eval()


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a converted autoencoder."""
    folder = tmp_path_factory.mktemp("model") / "converted"
    torch.manual_seed(0)
    prismify.save(prismify.convert(small_autoencoder()), folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 crops of a photograph-like picture, 24×24, in two sub-folders."""
    folder = tmp_path_factory.mktemp("pictures")
    whole = Image.open(ROOT / "examples" / "images" / "balloons.png").convert("RGB")
    columns = whole.width // 24
    for i in range(48):
        left, top = 24 * (i % columns), 24 * (i // columns)
        path = folder / ("ab"[i % 2]) / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        whole.crop((left, top, left + 24, top + 24)).save(path)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, converted: Path, pictures: Path) -> Callable[..., dict[str, Any]]:
    """`recipe(train={...}, ...)`: a small autoencoder recipe as plain data, written to `recipe.yaml` as well."""

    def make(**sections: Any) -> dict[str, Any]:
        content: dict[str, Any] = {
            "recipe": "autoencoder",
            "model": {"source": str(converted)},
            "data": {"path": str(pictures), "size": SIZE, "crop": "random", "flip": True, "validation": 8},
            "train": {"batch_size": 8, "learning_rate": 3e-3, "steps": 6, "device": "cpu", "ema": 0.9},
            "loss": {"perceptual": 0.0, "adversarial": 0.0},
            "log": {"every": 1, "validate_every": 3, "tensorboard": False, "images": 4},
            "checkpoint": {"every": 2, "keep": 2},
            "output": str(tmp_path / "run"),
        }
        for name, values in sections.items():
            content[name] = {**content.get(name, {}), **values} if isinstance(values, dict) else values
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        return content

    return make


@pytest.fixture
def train() -> Callable[..., tuple[Path, list[Any]]]:
    """`train(recipe data)` in this process: the run's folder, and what it told."""
    from prismify.recipes import carry_out

    from prismify.checkpoint import Trust
    from prismify.training.recipe import recipe_from

    def run(content: dict[str, Any], **how: Any) -> tuple[Path, list[Any]]:
        told: list[Any] = []
        return carry_out(recipe_from(content, "recipe"), told.append, trust=Trust(code=True), **how), told

    return run
