"""The hand-off to retraining: which recipe fits a converted model, and its file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..errors import RecipeError, one_line
from ..graph.classes import rows_of_classes
from ..graph.inputs import CLASS_NAMES, CONTEXT_NAMES, TIME_NAMES, noise
from ..graph.isolation import cloned_tensors, device_of, fake_weights, undisturbed
from ..graph.latents import decode, encode, first_tensor
from ..plan import Plan
from ..scanning import NEAR, inputs_text

RecipeName = Literal["autoencoder", "diffusion", "distillation"]
#: Where a manifest's origin leads to a model again that can teach; see `training.models.teacher_of`.
_TEACHERS = ("reference", "diffusers folder", "prismify folder", "weights")


@dataclass(frozen=True)
class Handoff:
    """The recipe that fits, and why; or None, and why no recipe of this release can train the model.

    Args:
        near: whether the replaced layers can start near those of a trained original, which teaches the model then.
    """

    recipe: RecipeName | None
    because: str
    near: bool = False


def choose_recipe(
    plan: Plan, model: nn.Module | ExportedProgram, origin: Mapping[str, Any] = MappingProxyType({})
) -> Handoff:
    """The recipe for a converted model, from what its capture shows, and from what it makes of an image.

    A model with `encode` and `decode` is an autoencoder; one that takes a time beside an image, and at most a class
    and a text, and returns the image's shape is a denoiser; anything else is distilled from its original. Recipes give
    models images: what does not take one, or what its `encode` returns cannot be read, gets none. Where layers become
    what comes near trained ones, such as fewer channels, and the original is trained, that is where they start from,
    and an autoencoder is distilled as well.

    Args:
        origin: where the model came from, as the manifest says it.
    """
    if isinstance(model, ExportedProgram):
        return Handoff(
            None, "an exported program has no training graph; to train it, convert the model that it was exported from"
        )
    rows = {row["method"]: row for row in plan.capture}
    is_autoencoder = all(callable(getattr(model, name, None)) for name in ("encode", "decode"))
    trained = origin.get("kind") in _TEACHERS and origin.get("kind") != "reference" and origin.get("weights") != "fresh"
    near = trained and any(row.operator is not None and row.operator.type in NEAR for row in plan.replaced)
    if not is_autoencoder and _denoises(rows.get("forward", {"inputs": [], "outputs": []})):
        if (reason := _undenoisable(model, rows["forward"])) is not None:
            return Handoff(None, reason)
        return Handoff("diffusion", "it takes a time beside an image, and returns the image's size", near)
    if (reason := _refusal(model, plan, is_autoencoder)) is not None:
        return Handoff(None, reason)
    if is_autoencoder and near:
        return Handoff("distillation", "its layers can start near those of its original, which teaches it", near)
    if is_autoencoder:
        return Handoff("autoencoder", "it has encode and decode")
    return Handoff("distillation", "it is neither an autoencoder nor a denoiser, so its original teaches it", near)


def needed_arguments(model: nn.Module) -> list[str]:
    """The arguments without which `forward` cannot be called."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def _undenoisable(model: nn.Module, row: dict[str, Any]) -> str | None:
    """Why the recipe for denoisers could not train one; None where it can."""
    if not any(len(i["shape"]) == 4 for i in row["inputs"]):
        return f"it takes {inputs_text(row)}, and the recipe for denoisers gives a model images or their latents"
    known = (*TIME_NAMES, *CLASS_NAMES, *CONTEXT_NAMES)
    unknown = [name for name in needed_arguments(model)[1:] if name not in known]
    if not any(name in TIME_NAMES for name in inspect.signature(model.forward).parameters):
        unknown = [name for name in unknown if name != needed_arguments(model)[1]]  # which is its time then
    if unknown:
        return f"its forward needs {', '.join(unknown)}, and the recipe for denoisers gives a time, a class and a text"
    return None


def _refusal(model: nn.Module, plan: Plan, is_autoencoder: bool) -> str | None:
    """Why a recipe could not train a model on images; None where it can, or where nothing shows that it cannot."""
    inputs: list[dict[str, Any]] = next((row["inputs"] for row in plan.capture if row["inputs"]), [])
    if not is_autoencoder and len(needed := needed_arguments(model)) != 1:
        return f"its forward needs {', '.join(needed) or 'nothing'}, and recipes give a model images alone"
    if not inputs:
        return None
    images = [list(row["shape"]) for row in inputs if len(row["shape"]) == 4]
    if not images or images[0][1] not in (1, 3):
        return f"it takes {inputs_text({'inputs': inputs})}, and recipes give a model images of 1 or 3 channels"

    def run(image: Tensor) -> Tensor:
        if not is_autoencoder:
            return first_tensor(model(image), type(model).__name__)
        return decode(model, encode(model, image).mean)[0]

    image = noise(1, images[0][1], images[0][-1], images[0][-1])
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), image.dtype)
    try:
        made = _tried(model, run, image.to(kind))
    except RecipeError as error:
        return str(error)
    except Exception as error:  # whatever somebody's model raises
        what = "encode and decode do" if is_autoencoder else "forward does"
        return f"its {what} not run on an image alone ({one_line(error)})"
    if is_autoencoder and made is not None and made.shape != image.shape:
        return (
            f"it makes {tuple(made.shape[1:])} of images of {tuple(image.shape[1:])}, and is no autoencoder of images"
        )
    return None


def _tried(model: nn.Module, run: Callable[[Tensor], Tensor], image: Tensor) -> Tensor | None:
    """What a model makes of an image, by shapes alone where it runs so; None where it has no values to run on."""
    try:
        with undisturbed(model), fake_weights(model) as (mode, make), mode, torch.inference_mode():
            return run(make(image))
    except RecipeError:
        raise
    except Exception:
        if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
            return None
    with undisturbed(model), cloned_tensors(model), torch.no_grad():
        return run(image.to(device_of(model)))


def _denoises(row: dict[str, Any]) -> bool:
    """Whether a method takes one number a sample beside an image or tokens, and returns only as many positions."""
    shapes = [list(i["shape"]) for i in row["inputs"]]
    timed = any(len(s) <= 1 or s[1:] == [1] for s in shapes)

    def positions(shape: list[int]) -> tuple[int, list[int]]:
        return len(shape), shape[2:] if len(shape) >= 4 else shape[1:2]

    data = [positions(s) for s in shapes if len(s) >= 3]
    results = [positions(list(s)) for s in row["outputs"]]
    return timed and bool(results) and all(result in data for result in results)


def recipe_text(
    handoff: Handoff, plan: Plan, model: nn.Module, origin: Mapping[str, Any], flags: Sequence[str] = ()
) -> str:
    """The content of `recipe.yaml` for a converted model.

    Args:
        handoff: with a recipe.
        origin: where the model came from, as the manifest says it.
        flags: what training must be allowed to do, as words of the command line.
    """
    template = files("prismify.recipes").joinpath("templates", f"{handoff.recipe}.yaml").read_text(encoding="utf-8")
    first: dict[str, Any] = plan.capture[0] if plan.capture else {"inputs": []}
    teacher = "the original; null takes what this folder was converted from"
    if origin.get("weights") == "fresh":
        teacher = "set this to a trained original: this folder was converted from fresh weights"
    elif origin.get("kind") not in _TEACHERS:
        teacher = f"set this to the original: this folder was converted from a {origin.get('kind')}"
    return Template(template).substitute(
        model=plan.model,
        because=handoff.because,
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        size=_image_size(first),
        channels=_image_channels(first),
        condition=_told(model),
        inputs=inputs_text(first),
        teacher=teacher,
        **_starting(handoff, model),
        flags="".join(f" {flag}" for flag in flags),
    )


def _starting(handoff: Handoff, model: nn.Module) -> dict[str, str]:
    """How a model learns from a teacher: near it from the first step on, or from weights that say nothing yet."""
    fresh, near = ("2.0e-3", "1.0e-3") if handoff.recipe == "diffusion" else ("6.0e-3", "5.0e-4")
    if not handoff.near:
        return {"fitted": "0", "rate": fresh, "distil": "null", "loss": _TAUGHT}
    loss = _TAUGHT_IMAGES if callable(getattr(model, "encode", None)) else _TAUGHT
    return {"fitted": "64", "rate": near, "distil": "{features: 0, fitted: 256}", "loss": loss}


_TAUGHT = """\
  output: 1.0                 # match what the teacher returns
  features: 0.0               # match the feature maps behind the replaced layers"""
_TAUGHT_IMAGES = """\
  image: 1.0                  # give the images back
  latent: 0.1                 # match the teacher's latents, for what was trained on those
  output: 0.0                 # match what the teacher decodes from them; 0 saves its pass"""


def trained_recipe_text(recipe: str, plan: Plan, model: nn.Module, flags: Sequence[str] = ()) -> str:
    """The content of `recipe.yaml` for a model that a recipe trained: the same, to go on from the weights there.

    Args:
        recipe: as YAML.
        flags: see `recipe_text`.
    """
    words = "".join(f" {flag}" for flag in flags)
    return (
        f"# What trained this model ({plan.model}, {sum(p.numel() for p in model.parameters()):,} parameters); it goes "
        "on from these weights.\n"
        "#\n"
        f"#     prismify train recipe.yaml{words} --set data.path=IMAGES\n"
        "#\n"
        "# docs/recipes.md explains every key.\n"
        f"{recipe}"
    )


def _told(model: nn.Module) -> str:
    """What a denoiser is told beside the time: "text" that it needs, "class" where it has a table, or "none"."""
    if any(name in CONTEXT_NAMES for name in needed_arguments(model)):
        return "text"
    takes = any(name in CLASS_NAMES for name in inspect.signature(model.forward).parameters)
    return "class" if takes and rows_of_classes(model) is not None else "none"


def _image_size(row: dict[str, Any]) -> int:
    """The side of the captured image; 32 where there is none."""
    return next((int(i["shape"][-1]) for i in row["inputs"] if len(i["shape"]) >= 4), 32)


def _image_channels(row: dict[str, Any]) -> int:
    """1 where the captured image is grey, else 3."""
    return next((1 if i["shape"][1] == 1 else 3 for i in row["inputs"] if len(i["shape"]) >= 4), 3)
