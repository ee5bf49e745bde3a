"""The hand-off to retraining: which recipe fits a converted model, and its file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any, Literal

from torch import nn

from .plan import Plan
from .report import inputs_text

RecipeName = Literal["autoencoder", "latent_diffusion", "single_image", "distillation"]


@dataclass(frozen=True)
class Handoff:
    """The recipe that fits, and why."""

    recipe: RecipeName
    because: str


def choose_recipe(plan: Plan) -> Handoff:
    """The recipe for a converted model, from what its capture shows.

    A model with `encode` and `decode` is an autoencoder; one that takes a time beside an image and returns the
    image's shape is a denoiser (of latents when it attends, of a single image when it is purely
    convolutional); anything else is distilled from its original.
    """
    rows = {row["method"]: row for row in plan.capture}
    if "encode" in rows and "decode" in rows:
        return Handoff("autoencoder", "it has encode and decode")
    denoises = _denoises(rows.get("forward", {"inputs": [], "outputs": []}))
    if denoises and plan.attention:
        return Handoff("latent_diffusion", "it takes a time beside an image, returns the image's size, and attends")
    if denoises:
        return Handoff("single_image", "it takes a time beside an image, and is purely convolutional")
    return Handoff("distillation", "it is neither an autoencoder nor a denoiser, so its original teaches it")


def _denoises(row: dict[str, Any]) -> bool:
    """Whether a method takes one number a sample beside an image or tokens, and returns only as many positions."""
    shapes = [list(i["shape"]) for i in row["inputs"]]
    timed = any(len(s) <= 1 or s[1:] == [1] for s in shapes)

    def positions(shape: list[int]) -> tuple[int, list[int]]:
        return len(shape), shape[2:] if len(shape) >= 4 else shape[1:2]

    data = [positions(s) for s in shapes if len(s) >= 3]
    results = [positions(list(s)) for s in row["outputs"]]
    return timed and bool(results) and all(result in data for result in results)


def recipe_text(plan: Plan, model: nn.Module) -> str:
    """The content of `recipe.yaml` for a converted model."""
    handoff = choose_recipe(plan)
    template = files("prismify.recipes").joinpath("templates", f"{handoff.recipe}.yaml").read_text(encoding="utf-8")
    first: dict[str, Any] = plan.capture[0] if plan.capture else {"inputs": []}
    return Template(template).substitute(
        model=plan.model,
        because=handoff.because,
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        size=_image_size(first),
        channels=_image_channels(first),
        inputs=inputs_text(first),
    )


def _image_size(row: dict[str, Any]) -> int:
    """The side of the captured image; 32 where there is none."""
    return next((int(i["shape"][-1]) for i in row["inputs"] if len(i["shape"]) >= 4), 32)


def _image_channels(row: dict[str, Any]) -> int:
    """1 where the captured image is grey, else 3."""
    return next((1 if i["shape"][1] == 1 else 3 for i in row["inputs"] if len(i["shape"]) >= 4), 3)
