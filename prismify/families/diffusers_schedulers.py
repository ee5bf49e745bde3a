"""diffusers' schedulers, by the words of a recipe."""

from __future__ import annotations

import warnings
from typing import Any, cast

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


def noise_scheduler(timesteps: int, schedule: str, betas: tuple[float, float], prediction: str) -> Any:
    """The scheduler that adds noise: of a flow where `prediction` is "flow", else of DDPM.

    Args:
        schedule: "linear", "scaled_linear" or "squaredcos_cap_v2".
        prediction: "epsilon", "v", "x0" or "flow".
    """
    if prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=timesteps)
    return DDPMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule=cast(Any, schedule),
        beta_start=betas[0],
        beta_end=betas[1],
        prediction_type=cast(Any, _PREDICTIONS[prediction]),
        clip_sample=False,
    )


def sampling_scheduler(trained: Any, sampler: str, steps: int, clip: bool, device: Any) -> Any:
    """A scheduler that samples from what was trained with another, its times set.

    Args:
        trained: what `noise_scheduler` made.
        sampler: "ddpm", "ddim", "dpm++" or "euler".
        steps: how many times the model is asked.
        clip: cut every estimate of the clean picture to [-1, 1], where the scheduler does that (`clip_sample`).
    """
    scheduler = _sampling_scheduler(trained, sampler, clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy's, about how diffusers reads tensors
        scheduler.set_timesteps(steps, device=device)
    return scheduler


def _sampling_scheduler(trained: Any, sampler: str, clip: bool) -> Any:
    config = trained.config
    if isinstance(trained, FlowMatchEulerDiscreteScheduler):
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    # From the last time of training down: sampling then starts from what the model saw as pure noise.
    common = {"timestep_spacing": "trailing"}
    made: dict[str, Any] = {
        "ddpm": lambda: DDPMScheduler.from_config(config, clip_sample=clip, **common),
        "ddim": lambda: DDIMScheduler.from_config(config, clip_sample=clip, set_alpha_to_one=True, **common),
        "dpm++": lambda: DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", thresholding=False, **common
        ),
        "euler": lambda: EulerDiscreteScheduler.from_config(config, **common),
    }
    return made[sampler]()
