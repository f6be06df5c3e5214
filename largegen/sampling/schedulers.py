"""Schedulers of the reverse diffusion, and the noise and the clean latents that stand for each other."""

from typing import Any, TypeAlias

from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from largegen.errors import InputError, ModelError
from largegen.models.denoiser import PREDICTIONS
from largegen.sampling.settings import check_spacing

Scheduler: TypeAlias = DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler

SCHEDULERS: dict[str, tuple[type[Scheduler], dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
}


def make_scheduler(name: str, train_scheduler: DDPMScheduler, steps: int) -> Scheduler:
    """Make a diffusers scheduler for the noise schedule that a model was trained with.

    Timesteps are spaced `trailing`: 999, 979, ... 19 for 50 steps of 1000 [L, sec. 3].

    Args:
        name: `ddim`, `dpm++` or `unipc`.
        train_scheduler: the schedule that the model was trained with.
        steps: number of timesteps.

    Raises:
        InputError: for an unknown name or a number of steps that cannot be had.
        ModelError: for a model that predicts neither noise nor v nor clean latents.
    """
    if name not in SCHEDULERS:
        raise InputError(f"`scheduler` {name}: use one of {', '.join(SCHEDULERS)}")
    config = train_scheduler.config
    if not 1 <= steps <= config.num_train_timesteps:
        raise InputError(f"`steps` {steps}: must be between 1 and {config.num_train_timesteps}")
    check_spacing(steps, config.num_train_timesteps)
    if config.prediction_type not in PREDICTIONS:
        raise ModelError(f"scheduler: the model predicts {config.prediction_type}, none of {', '.join(PREDICTIONS)}")
    kind, options = SCHEDULERS[name]
    # Whatever the network predicts, `denoise` gives the noise.
    fixed = {"timestep_spacing": "trailing", "prediction_type": "epsilon", "clip_sample": False, "thresholding": False}
    options = fixed | options
    scheduler = kind.from_config(config, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def clean_of(eps: Tensor, noisy: Tensor, scheduler: Scheduler, timestep: Tensor) -> Tensor:
    """Return the clean latents x0 that a predicted noise implies: (x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)."""
    alpha_bar = scheduler.alphas_cumprod[timestep].item()
    return (noisy - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def eps_of(clean: Tensor | int, noisy: Tensor, scheduler: Scheduler, timestep: Tensor) -> Tensor:
    """Return the noise that takes noisy latents to `clean` ones: (x - sqrt(alpha_bar) clean) / sqrt(1 - alpha_bar)."""
    alpha_bar = scheduler.alphas_cumprod[timestep].item()
    return (noisy - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
