"""What a recipe for denoisers says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import RecipeError
from ..bounds import numbers, whole
from .common import ModelSource, Recipe


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How noise is added, and what the model predicts.

    Args:
        timesteps: how many times there are.
        schedule: of the betas, as diffusers names it.
        beta_start, beta_end: the first beta and the last ("linear" and "scaled_linear").
        prediction: the noise (Ho et al., 2020), v (Salimans & Ho, 2022), the clean picture, or the velocity of a flow
            along straight lines, which has no betas.
    """

    timesteps: int = 1000
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: Literal["epsilon", "v", "x0", "flow"] = "epsilon"

    def __post_init__(self) -> None:
        whole("noise", self, 2**20, timesteps=2)
        numbers("noise", self, "a positive number", "beta_start", "beta_end")
        if not self.beta_start <= self.beta_end < 1:
            raise RecipeError(f"noise: beta_start {self.beta_start:g} <= beta_end {self.beta_end:g} < 1 must hold")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the model is told beside the time.

    Args:
        kind: "class" gives it the label of each image, "text" what is said of it.
        encoder: of texts: the folder of a pipeline with `tokenizer` and `text_encoder`.
        dropout: how often it is told nothing instead, so that sampling can be guided: a table of classes then needs
            one row more, and a text is empty.
    """

    kind: Literal["none", "class", "text"] = "none"
    encoder: str | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        numbers("condition", self, "0 or a number below 1", "dropout")
        if (self.kind == "text") != (self.encoder is not None):
            raise RecipeError("condition: kind text and encoder, the folder of a pipeline, go together")


@dataclass(frozen=True, kw_only=True)
class DiffusionLoss:
    """The error of what the model predicts.

    Args:
        distance: squared ("l2") or absolute ("l1") error.
        weighting: of the times: all alike, or by min(SNR, gamma) (Hang et al., 2023), for the squared error.
        gamma: of min-SNR.
    """

    distance: Literal["l2", "l1"] = "l2"
    weighting: Literal["none", "min_snr"] = "none"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        numbers("loss", self, "a positive number", "gamma")
        if self.weighting == "min_snr" and self.distance != "l2":
            raise RecipeError("loss: min_snr weights the squared error: set loss.distance=l2")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the run shows what it has learned, `log.images` pictures of the same seeds each time.

    Args:
        sampler: "auto" is ddim, or euler for a flow.
        steps: how many times the model is asked.
        guidance: away from what the model says without a class; 1 is none.
        seed: of the pictures.
    """

    sampler: Literal["auto", "ddpm", "ddim", "dpm++", "euler"] = "auto"
    steps: int = 50
    guidance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("sampling", self, steps=1)
        whole("sampling", self, 2**63 - 1, seed=0)
        numbers("sampling", self, "0 or a positive number", "guidance")


@dataclass(frozen=True, kw_only=True)
class Latents:
    """The latents of an autoencoder, made once and kept on disk.

    Args:
        path: the folder that holds them, for several runs to share; None keeps them in the run's folder.
        scale: "unit" brings each channel to mean 0 and deviation 1 over the images; "own" scales as the autoencoder's
            config says (`scaling_factor`, `shift_factor`), as the pipelines of trained denoisers do.
        batch_size: images that are encoded at a time.
    """

    path: str | None = None
    scale: Literal["unit", "own"] = "unit"
    batch_size: int = 64

    def __post_init__(self) -> None:
        whole("latents", self, 2**16, batch_size=1)


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What a denoiser learns from a teacher, as squared error over the teacher's power.

    Args:
        output: what the teacher predicts.
        features: what its modules return on the way, matched through 1x1 adapters that are thrown away.
        feature_layers: patterns over names of those modules; the ones that hold replaced layers where none is given.
        task: the error that a denoiser without a teacher learns from (`loss`).
        samples: of the teacher to learn from, where `data.kind` is "teacher".
        most_deviations: features of the teacher are cut there, so that a few outliers do not take over; None cuts none.
        fitted: images, noised, on which the replaced layers are fitted to the teacher's in closed form before the first
            step; 0 leaves the weights that the model came with.
        positions: of each call of a layer that such a fit looks at, at most.
    """

    output: float = 1.0
    features: float = 1.0
    feature_layers: tuple[str, ...] = ()
    task: float = 0.0
    samples: int = 4096
    most_deviations: float | None = 6.0
    fitted: int = 0
    positions: int = 2000

    def __post_init__(self) -> None:
        terms = ("output", "features", "task")
        numbers("distil", self, "0 or a positive number", *terms, hint="; 0 leaves it out")
        whole("distil", self, samples=1, fitted=0, positions=1)
        numbers("distil", self, "a positive number", "most_deviations", hint="; null cuts none")
        if not any(getattr(self, name) for name in terms):
            raise RecipeError(f"distil: {', '.join(terms)} are all 0, so that nothing is trained")


@dataclass(frozen=True, kw_only=True)
class Scales:
    """The sizes at which one picture is seen, coarse to fine (SinDDM: Kulikov et al., 2023).

    Args:
        factor: how much larger a side is from one size to the next; rounded so that whole steps lead to the picture.
        area: pixels of the smallest, of which the 35x35 that SinDDM takes its network to see are 40 %.
        shortest: bounds of the shorter side of the smallest.
        max_pixels: a larger picture is made smaller first.
    """

    factor: float = 1.411
    area: int = 3110
    shortest: tuple[int, int] = (42, 55)
    max_pixels: int = 50_000

    def __post_init__(self) -> None:
        numbers("scales", self, "a number above 1", "factor")
        whole("scales", self, area=1, max_pixels=1)
        if not 1 <= self.shortest[0] <= self.shortest[1]:
            raise RecipeError(f"scales: shortest {list(self.shortest)} must be [least, most] with 1 <= least <= most")


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(Recipe):
    """Train a denoiser on pixels, or on the latents of an autoencoder (Secs. 4.2, 4.3).

    Args:
        autoencoder: whose latents are denoised; None denoises pixels.
        teacher: a denoiser to learn from, which sees the same noise.
        distil: what is learned from it. Set without `teacher`, that is what the converted folder was made from.
        scales: train on one picture at several sizes; None trains on many, at one.
    """

    judging: ClassVar[tuple[str, str] | None] = ("prismify sample", "-o samples")

    recipe: Literal["diffusion"]
    autoencoder: ModelSource | None = None
    teacher: ModelSource | None = None
    distil: Teaching | None = None
    latents: Latents = Latents()
    noise: Noise = Noise()
    condition: Condition = Condition()
    loss: DiffusionLoss = DiffusionLoss()
    sampling: Sampling = Sampling()
    scales: Scales | None = None

    def __post_init__(self) -> None:
        if self.scales is not None:
            _check_one_picture(self)


def _check_one_picture(recipe: DiffusionRecipe) -> None:
    """See that nothing is asked for that one picture at several sizes does not have."""
    data, sampling, usual = recipe.data, recipe.sampling, Sampling()
    found = {
        "autoencoder": (recipe.autoencoder is not None, "one picture is denoised as pixels: drop it"),
        "teacher": (recipe.teacher is not None or recipe.distil is not None, "drop it, and distil"),
        "noise.prediction=flow": (recipe.noise.prediction == "flow", "blur follows the betas: set epsilon, v or x0"),
        "condition.kind=class": (recipe.condition.kind == "class", "one picture has no classes: set none"),
        "data.validation": (data.validation > 0, "one picture leaves none to measure on: set data.validation=0"),
        "data.size": (data.size is not None, "the picture keeps its aspect, within scales.max_pixels: set null"),
        "data.crop=random": (data.crop == "random", "the sizes are made of the picture once: set center"),
        "data.flip": (data.flip, "the sizes are made of the picture once: set false"),
        "train.epochs": (recipe.train.epochs is not None, "a pass over one picture says nothing: set train.steps"),
        "sampling.sampler": (sampling.sampler != usual.sampler, "several sizes are sampled in one way: drop it"),
        "sampling.steps": (sampling.steps != usual.steps, "several sizes have steps of their own: drop it"),
        "sampling.guidance": (sampling.guidance != usual.guidance, "one picture has no classes: drop it"),
    }
    for key, (is_set, hint) in found.items():
        if is_set:
            raise RecipeError(f"{key} does not go with scales: {hint}")
