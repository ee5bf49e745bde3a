"""A trained denoiser, opened for sampling: its weights, how it was trained, and what turns its latents into pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..checkpoint import Trust
from ..checkpoint.shipped import folder_of
from ..errors import SourceError
from ..training.finished import run_model, run_of
from ..training.model_files import DENOISING_NAME
from ..training.models import NO_TRUST, is_autoencoder, open_model
from ..training.schema import Condition, ModelSource
from .denoiser import Denoiser
from .fitting import open_texts
from .latents import weights_hash
from .record import Trained, read_record


@dataclass(frozen=True)
class Opened:
    """A denoiser in evaluation mode.

    Args:
        trained: how it was trained.
        autoencoder: decodes what it makes; None where that is pixels.
        texts: the encoder of texts that it is told, a function of a list of them; None where it is told none.
        which: of a run's models.
    """

    denoiser: Denoiser
    trained: Trained
    autoencoder: nn.Module | None = None
    texts: Any = None
    which: str = ""


def is_denoiser(name: str) -> bool:
    """Whether a person names the folder of a denoiser, or of a run that trains one."""
    path = folder_of(name)
    return ((run_of(path) or path) / DENOISING_NAME).is_file()


def open_denoiser(name: str, trust: Trust = NO_TRUST) -> Opened:
    """The denoiser that a person names: a run's folder, a model's, or one that comes along.

    Raises:
        SourceError: nothing was trained there; or it runs code that is not trusted.
    """
    path = folder_of(name)
    run = run_of(path)
    if run is not None:
        model, which = run_model(path, trust)
        trained = read_record(run)
    else:
        if not path.is_dir():
            raise SourceError(f"{name}: no such folder, and no model that comes with prismify")
        if not (path / DENOISING_NAME).is_file():
            raise SourceError(
                f"{name} does not say how its model was trained to denoise (it has no {DENOISING_NAME}): name a "
                "denoiser that the recipe diffusion trained"
            )
        trained = read_record(path)
        model, which = open_model(ModelSource(source=str(path)), trust, str(path)), ""
    model.eval().requires_grad_(False)
    autoencoder = None
    if trained.latents is not None:
        autoencoder = open_model(trained.latents.autoencoder, trust, str(path)).eval().requires_grad_(False)
        if not is_autoencoder(autoencoder):
            source = trained.latents.autoencoder.source
            raise SourceError(f"{source} holds a {type(autoencoder).__name__}, which has no encode and decode")
        if (found := weights_hash(autoencoder)) != trained.latents.hash:
            raise SourceError(
                f"{trained.latents.autoencoder.source} has other weights ({found}) than those whose latents {name} "
                f"learned ({trained.latents.hash}): put them back"
            )
    texts = open_texts(Condition(kind="text", encoder=trained.texts), "cpu") if trained.texts is not None else None
    return Opened(Denoiser(model), trained, autoencoder, texts, which)
