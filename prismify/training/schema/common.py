"""What every recipe may say: its model, its images, the optimisation, the log."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from PIL import ImageColor

from ...errors import RecipeError
from ...plan import Policy
from ..bounds import MOST, factors, numbers, whole


def _is_colour(text: str) -> bool:
    try:
        return len(ImageColor.getrgb(text)) == 3
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model to train or to learn from.

    Args:
        source: a folder that prismify wrote, a diffusers folder, a weights file, or a model reference.
        architecture: the reference of the architecture, for a weights file.
        arguments: of the reference's factory.
        convert: convert it first, by this policy; None trains it as it is.
        zero: patterns over names of layers whose weights start at zero, such as the ends of residual branches.
    """

    source: str
    architecture: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    convert: Policy | None = None
    zero: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Data:
    """Images, and how they are cut to size.

    Args:
        path: a folder of images, a tar of images, an npz (`images`: N H W C, uint8), WebDataset shards
            (`train-{000..146}.tar`, or a folder of them), or the root of torchvision's CIFAR10.
        kind: which of these; "auto" tells by the path. "teacher" is no path: what the teacher of a denoiser samples.
        split: of CIFAR10.
        select: a pattern that names inside a folder or tar must match, such as "train/*".
        size: side of the square that the model sees, in pixels; None takes the images as they are.
        crop: where the square is cut after the shorter side was resized to `size`.
        flip: mirror half of the images.
        channels: 3 (RGB) or 1 (grey).
        range: the values that black and white have for the model.
        background: what shows through transparent pixels: a colour's name, or "#rrggbb".
        white: what white is in grey images of more than 8 bits; None takes all bits of whole numbers, and 1 of floats.
            A value beyond black (0) and white is an error, never cut off.
        max_pixels: a larger image is an error before it is unpacked: an image of 90 million takes about 1 GB.
        validation: how many images are held out to measure on, where `validation_path` is not set.
        validation_path, validation_select: images to measure on, instead; at most `validation` of them.
        workers: processes that read images; 0 reads in the training process.
        skip_damaged: take the next image for one that cannot be read, instead of stopping.
    """

    path: str | None = None
    kind: Literal["auto", "image_folder", "tar", "npz", "webdataset", "cifar10", "teacher"] = "auto"
    split: Literal["train", "test"] = "train"
    select: str | None = None
    size: int | None = None
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    channels: Literal[1, 3] = 3
    range: tuple[float, float] = (-1.0, 1.0)
    background: str = "white"
    white: float | None = None
    max_pixels: int = 90_000_000
    validation: int = 64
    validation_path: str | None = None
    validation_select: str | None = None
    workers: int = 0
    skip_damaged: bool = False

    def __post_init__(self) -> None:
        whole("data", self, size=1, validation=0, workers=0)
        whole("data", self, 2**63 - 1, max_pixels=1)
        numbers("data", self, "a number within a thousand million", "range")
        numbers("data", self, "a positive number", "white")
        if self.range[0] >= self.range[1]:
            raise RecipeError(f"data: range {list(self.range)} must be [black, white] with black < white")
        if not _is_colour(self.background):
            raise RecipeError(f"data: background {self.background!r} is no colour such as white or '#808080'")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Factors on the learning rate, by kind of layer.

    Args:
        kernel: the paper's operators, in every form.
        norm: normalisation layers.
        dense: everything else: input, output and other dense layers.
        operators: of single operators, by the name that plans give them ({Tucker: 2}), in place of these.
    """

    kernel: float = 1.0
    norm: float = 1.0
    dense: float = 1.0
    operators: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers("rates", self, "0 or a positive number", "kernel", "norm", "dense")
        factors(self.operators)
        if not (self.kernel or self.norm or self.dense or any(self.operators.values())):
            raise RecipeError("rates: kernel, norm and dense are all 0, so that nothing is trained")


@dataclass(frozen=True, kw_only=True)
class Train:
    """The optimisation.

    Args:
        batch_size: images a step, over all processes and accumulation steps together.
        accumulation: parts that a process's share of the batch is computed in, one after the other.
        learning_rate: of Adam; or
        base_learning_rate: the same divided by `batch_size`, as the paper gives it.
        steps, epochs: how long; one of the two.
        max_minutes: stop after this much training time, whatever `steps` says.
        schedule: of the learning rate, after `warmup_steps` of linear rise, down to `final_rate` of it at the end,
            or when `max_minutes` are up: the clock then decides the rate.
        betas, eps, weight_decay: of Adam (AdamW where the decay is not zero).
        rates: factors by kind of layer.
        clip: the norm that gradients are cut down to; None leaves them.
        ema: decay of the averaged weights that are measured and shipped; None keeps no average.
        seed: of everything random.
        device: "auto" takes CUDA where there is one.
        mixed_precision: of the forward pass.
        fuse: run norm, activation, operator and residual sum in one pass (`prismify.fuse`); compiles at the start.
        divergence: a loss term this many times above its own running mean, for ten steps, has diverged.
    """

    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float | None = None
    base_learning_rate: float | None = None
    steps: int | None = None
    epochs: float | None = None
    max_minutes: float | None = None
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    final_rate: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    rates: Rates = Rates()
    clip: float | None = None
    ema: float | None = 0.999
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    fuse: bool = False
    divergence: float = 1000.0

    def __post_init__(self) -> None:
        whole("train", self, batch_size=1, accumulation=1)
        whole("train", self, 2**53, steps=1, warmup_steps=0)  # to which every number is exact
        whole("train", self, 2**63 - 1, seed=0)
        numbers("train", self, "a positive number", "learning_rate", "base_learning_rate", "max_minutes", "eps")
        numbers("train", self, "0 or a number below 1", "betas")
        numbers("train", self, "a number from 0 to 1", "final_rate")
        numbers("train", self, "0 or a positive number", "weight_decay")
        numbers("train", self, "a positive number", "clip", hint="; null leaves gradients as they are")
        numbers("train", self, "a number above 1", "divergence")
        if (self.learning_rate is None) == (self.base_learning_rate is None):
            raise RecipeError("train: set one of learning_rate and base_learning_rate (times batch_size)")
        if (self.steps is None) == (self.epochs is None):
            raise RecipeError("train: set one of steps and epochs")
        if self.epochs is not None and not 0 < self.epochs <= MOST:
            raise RecipeError(f"train: epochs {self.epochs:g} must be a positive number, at most {MOST}")
        if not math.isfinite(self.rate):
            raise RecipeError(f"train: base_learning_rate {self.base_learning_rate:g} x batch_size is no number")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise RecipeError(f"train: ema {self.ema:g} is a decay in [0, 1); null keeps no average")

    @property
    def rate(self) -> float:
        """The effective learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        assert self.base_learning_rate is not None
        return self.base_learning_rate * self.batch_size


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """LPIPS. `weights` is a safetensors file with backbone and heads (docs/recipes.md); None lets torchvision
    bring the backbone, from its cache or the network, and torchmetrics the heads."""

    net: Literal["alex", "vgg"] = "vgg"
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Log:
    """How often a run speaks, in steps: `every` for losses, `validate_every` for measurements and pictures."""

    every: int = 10
    validate_every: int = 500
    images: int = 8
    tensorboard: bool = True

    def __post_init__(self) -> None:
        whole("log", self, every=1, validate_every=1, images=0)


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The state is written every `every` steps; the last `keep` and the best are kept."""

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        whole("checkpoint", self, every=1, keep=1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every recipe says. `output` is the run's folder."""

    #: What shows how good a run's model is, for a shell, around the run's folder; None where it must be finished first.
    judging: ClassVar[tuple[str, str] | None] = ("prismify evaluate", "--data IMAGES")

    recipe: str
    model: ModelSource
    data: Data
    train: Train
    output: str
    log: Log = Log()
    checkpoint: Checkpoints = Checkpoints()
