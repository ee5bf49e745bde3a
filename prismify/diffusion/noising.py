"""How noise is added to what is clean, and what a model learns to say of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..families import schedulers
from ..training.schema import Noise


class Noising:
    """The forward process of a recipe.

    With a schedule of betas, `noised = sqrt(a) clean + sqrt(1 - a) noise` where a(t) falls from 1 to nearly 0 (Ho et
    al., 2020, Eq. 4); as a flow, `noised = (1 - s) clean + s noise` with s from 0 to 1 (Lipman et al., 2023).

    Args:
        noise: the recipe's settings.
    """

    def __init__(self, noise: Noise) -> None:
        self.settings = noise
        self.scheduler: Any = schedulers().noise_scheduler(
            noise.timesteps, noise.schedule, (noise.beta_start, noise.beta_end), noise.prediction
        )

    @property
    def is_flow(self) -> bool:
        """Whether time is continuous, and the model learns a velocity along straight lines."""
        return self.settings.prediction == "flow"

    @property
    def kept(self) -> Tensor:
        """The share of the clean picture in the variance at each time, shape (timesteps,), where there are betas."""
        kept: Tensor = self.scheduler.alphas_cumprod
        return kept

    def times(self, chances: Tensor) -> Tensor:
        """Times as the model sees them, shape (B,), from uniform numbers in [0, 1) of the same shape."""
        scaled = chances * self.settings.timesteps
        return scaled if self.is_flow else scaled.long()

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Noise added to `clean`, all of shape (B, ...), as far as each time says."""
        signal, spread = self._factors(times, clean)
        return signal * clean + spread * noise

    def drawn(self, clean: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Noised pictures and their times, both functions of `clean`, shape (B, ...), and the seed alone."""
        draw = torch.Generator().manual_seed(seed)
        times = self.times(torch.rand(len(clean), generator=draw)).to(clean.device)
        noise = torch.randn(clean.shape, generator=draw).to(clean)
        return self.noised(clean, noise, times), times

    def target(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the model is to predict: the noise, v (Salimans & Ho, 2022), the clean picture, or the flow."""
        match self.settings.prediction:
            case "epsilon":
                return noise
            case "x0":
                return clean
            case "flow":
                return noise - clean
        signal, spread = self._factors(times, clean)
        return signal * noise - spread * clean

    def clean(self, predicted: Tensor, noised: Tensor, times: Tensor) -> Tensor:
        """The clean picture that a prediction means."""
        signal, spread = self._factors(times, noised)
        match self.settings.prediction:
            case "epsilon":
                return (noised - spread * predicted) / signal
            case "x0":
                return predicted
            case "flow":
                return noised - spread * predicted
        return signal * noised - spread * predicted

    def meaning(self, clean: Tensor, noised: Tensor, times: Tensor) -> Tensor:
        """The prediction that means a clean picture: the other way round than `clean`."""
        if self.settings.prediction == "x0":
            return clean
        signal, spread = self._factors(times, noised)
        noise = (noised - signal * clean) / spread.clamp_min(1e-6)
        return self.target(clean, noise, times)

    def weights(self, times: Tensor, gamma: float) -> Tensor:
        """Min-SNR weights of the squared error at each time, shape (B,) (Hang et al., 2023)."""
        signal, spread = self._factors(times, times)
        ratio = (signal / spread.clamp_min(1e-6)).square()
        cut = ratio.clamp_max(gamma)
        match self.settings.prediction:
            case "epsilon":
                return cut / ratio.clamp_min(1e-12)
            case "x0":
                return cut
            case "flow":
                return cut * spread.square()
        return cut / (ratio + 1)

    def _factors(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the clean picture, and of the noise, each time keeps: shape (B, 1, ...)."""
        shape = (-1, *(1 for _ in like.shape[1:]))
        if self.is_flow:
            share = (times.float() / self.settings.timesteps).to(like.dtype if like.is_floating_point() else None)
            return (1 - share).reshape(shape), share.reshape(shape)
        kept = self.kept.to(times.device)[times]
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return kept.sqrt().to(dtype).reshape(shape), (1 - kept).sqrt().to(dtype).reshape(shape)
