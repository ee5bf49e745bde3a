"""diffusers' schedulers, by the words of a recipe."""

from __future__ import annotations

import warnings
from typing import Any, cast

from diffusers import (
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


def sampling_scheduler(trained: Any, sampler: str, steps: int, device: Any) -> Any:
    """A scheduler that samples from what was trained with another, its times set.

    Times fall evenly from the last of training, of pure noise (diffusers' "trailing", but never one too many, as there
    at some numbers of steps), and each step goes to the next. DDIM is DPM-Solver++ of first order (Lu et al., 2022).

    Args:
        trained: what `noise_scheduler` made.
        sampler: "ddpm", "ddim", "dpm++" or "euler".
        steps: how many times the model is asked.
    """
    config, count = trained.config, trained.config.num_train_timesteps
    if isinstance(trained, FlowMatchEulerDiscreteScheduler):
        flow = FlowMatchEulerDiscreteScheduler.from_config(config)
        flow.set_timesteps(steps, device=device)
        return flow
    solver = {"algorithm_type": "dpmsolver++", "thresholding": False}
    made: dict[str, Any] = {
        "ddpm": lambda: DDPMScheduler.from_config(config, clip_sample=False),
        "ddim": lambda: DPMSolverMultistepScheduler.from_config(config, solver_order=1, **solver),
        "dpm++": lambda: DPMSolverMultistepScheduler.from_config(config, **solver),
        "euler": lambda: EulerDiscreteScheduler.from_config(config),
    }
    scheduler = made[sampler]()
    times = [round(count * (steps - index) / steps) - 1 for index in range(steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy's, about how diffusers reads tensors
        scheduler.set_timesteps(timesteps=times, device=device)
    return scheduler
