"""Schedulers of the reverse diffusion, and the noise and the clean latents that stand for each other."""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, LCMScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from torch import Tensor

from largegen.errors import InputError, ModelError
from largegen.models.denoiser import PREDICTIONS
from largegen.runtime.private_api import SCHEDULER_MEMORY
from largegen.sampling.settings import MAX_LCM_STEPS, check_spacing


class ChosenDDIMScheduler(DDIMScheduler):
    """DDIM without noise at any timesteps; diffusers' is at even ones."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> DDIMSchedulerOutput:
        """Go from a timestep to the next: to the clean latents after the last one.

        Args:
            model_output: (B, C, h, w) predicted noise.
            timestep: of the scheduler.
            sample: likewise, before the step.
        """
        clean = clean_of(model_output, sample, self, timestep)
        later = self.timesteps[self.timesteps < timestep]
        alpha_bar = self.alphas_cumprod[later[0]].item() if len(later) else 1.0
        stepped = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * model_output
        return DDIMSchedulerOutput(prev_sample=stepped, pred_original_sample=clean)


class PlacedLCMScheduler(LCMScheduler):
    """Diffusers' scheduler of consistency models, whose noise between the steps is given, not drawn."""

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, variance_noise: Tensor
    ) -> LCMSchedulerOutput:
        """Take the clean latents that the predicted noise implies, and add the noise of the next timestep.

        Args:
            model_output: (B, C, h, w) predicted noise.
            timestep: of the scheduler.
            sample: likewise, before the step.
            variance_noise: likewise, standard normal; not used by the last step.
        """
        c_skip, c_out = self.get_scalings_for_boundary_condition_discrete(timestep)
        clean = c_out * clean_of(model_output, sample, self, timestep) + c_skip * sample
        later = self.timesteps[self.timesteps < timestep]
        noisy = self.add_noise(clean, variance_noise, later[:1]) if len(later) else clean
        return LCMSchedulerOutput(prev_sample=noisy, denoised=clean)


Scheduler: TypeAlias = DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler | PlacedLCMScheduler

SCHEDULERS: dict[str, tuple[type[Scheduler], dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
}
OF_STUDENTS: dict[str, tuple[type[Scheduler], dict[str, Any]]] = {
    "lcm": (PlacedLCMScheduler, {"original_inference_steps": MAX_LCM_STEPS}),
}

# Whatever the network predicts, `denoise` gives the noise.
FIXED = {"timestep_spacing": "trailing", "prediction_type": "epsilon", "clip_sample": False, "thresholding": False}


def make_scheduler(name: str, train_scheduler: DDPMScheduler, steps: int, timesteps: Sequence[int] = ()) -> Scheduler:
    """Make a diffusers scheduler for the noise schedule that a model was trained with.

    Timesteps are spaced `trailing`: 999, 979, ... 19 for 50 steps of 1000 [L, sec. 3]; those of `lcm` are of these.

    Args:
        name: `ddim`, `dpm++`, `unipc` or `lcm`.
        train_scheduler: the schedule that the model was trained with.
        steps: number of timesteps.
        timesteps: which they are, the noisiest first, in place of those that the scheduler lays; of `ddim` only.

    Raises:
        InputError: for an unknown name or a number of steps that cannot be had.
        ModelError: for a model that predicts neither noise nor v nor clean latents.
    """
    known = SCHEDULERS | OF_STUDENTS
    if name not in known:
        raise InputError(f"`scheduler` {name}: use one of {', '.join(known)}")
    config = train_scheduler.config
    if not 1 <= steps <= config.num_train_timesteps:
        raise InputError(f"`steps` {steps}: must be between 1 and {config.num_train_timesteps}")
    if timesteps:
        return _at_timesteps(name, train_scheduler, timesteps)
    if name != "lcm":
        check_spacing(steps, config.num_train_timesteps)
    elif steps > MAX_LCM_STEPS:
        raise InputError(f"`steps` {steps}: at most {MAX_LCM_STEPS} with `scheduler` lcm")
    if config.prediction_type not in PREDICTIONS:
        raise ModelError(f"scheduler: the model predicts {config.prediction_type}, none of {', '.join(PREDICTIONS)}")
    kind, options = known[name]
    scheduler = kind.from_config(config, **FIXED | options)
    scheduler.set_timesteps(steps)
    return scheduler


def _at_timesteps(name: str, train_scheduler: DDPMScheduler, timesteps: Sequence[int]) -> Scheduler:
    falls = all(after < before for before, after in pairwise((train_scheduler.config.num_train_timesteps, *timesteps)))
    if name != "ddim" or not falls or timesteps[-1] < 0:
        raise InputError(f"`timesteps` {list(timesteps)}: must fall from below 1000 to 0 or more, of `scheduler` ddim")
    scheduler = ChosenDDIMScheduler.from_config(train_scheduler.config, **FIXED)
    scheduler.set_timesteps(len(timesteps))
    scheduler.timesteps = torch.tensor(timesteps)
    return scheduler


def added_noise(scheduler: Scheduler, eta: float, noise: Callable[[], Tensor]) -> dict[str, Any]:
    """Return the options of a scheduler's `step` by which it adds noise, if it does.

    Args:
        scheduler: from `make_scheduler`.
        eta: DDIM's added noise, 0 to 1.
        noise: draws standard normal noise, of the shape of the latents.
    """
    if isinstance(scheduler, PlacedLCMScheduler):
        return {"variance_noise": noise()}
    return {"eta": eta, "variance_noise": noise()} if eta else {}


def clean_of(eps: Tensor, noisy: Tensor, scheduler: Scheduler, timestep: Tensor) -> Tensor:
    """Return the clean latents x0 that a predicted noise implies: (x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)."""
    alpha_bar = scheduler.alphas_cumprod[timestep].item()
    return (noisy - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def eps_of(clean: Tensor | int, noisy: Tensor, scheduler: Scheduler, timestep: Tensor) -> Tensor:
    """Return the noise that takes noisy latents to `clean` ones: (x - sqrt(alpha_bar) clean) / sqrt(1 - alpha_bar)."""
    alpha_bar = scheduler.alphas_cumprod[timestep].item()
    return (noisy - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5


class RowScheduler:
    """A scheduler that takes a step on parts of a canvas in turn: what it remembers of rows is given and returned.

    Args:
        scheduler: from `make_scheduler`.
        numbers: what it remembers beside the rows, after the step before; None: nothing yet.
    """

    def __init__(self, scheduler: Scheduler, numbers: Mapping[str, float] | None = None) -> None:
        self.scheduler = scheduler
        self._fresh = {name: copy.copy(getattr(scheduler, name)) for name in _remembered(scheduler)}
        self._added = [name for name in SCHEDULER_MEMORY if name not in self._fresh]  # which the first step makes
        self.numbers = dict(numbers or {})  # before the present step
        self._after = dict(self.numbers)

    def step(
        self, eps: Tensor, timestep: Tensor, noisy: Tensor, memory: Mapping[str, Tensor], **options: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Take the step on some rows, and return them and what is remembered of them.

        Args:
            eps: (1, C, n, W) predicted noise.
            timestep: of the scheduler.
            noisy: (1, C, n, W), the rows before the step.
            memory: what is remembered of these rows.
            options: further arguments of the scheduler's `step`.
        """
        for name in self._added:
            if hasattr(self.scheduler, name):
                delattr(self.scheduler, name)
        for name, value in self._fresh.items():
            setattr(self.scheduler, name, copy.copy(value))
        restore_memory(self.scheduler, {**self.numbers, **memory})
        result: Tensor = self.scheduler.step(eps, timestep, noisy, **options).prev_sample
        found = memory_of(self.scheduler)
        self._after = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
        return result, {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def turn(self) -> None:
        """End the step: the next call of `step` belongs to the next one."""
        self.numbers = self._after

    def row_fields(self) -> list[str]:
        """Name all that is ever remembered of rows: found by some steps on a latent."""
        trial, latent = RowScheduler(copy.deepcopy(self.scheduler)), torch.zeros(1, 1, 1, 1)
        memory: dict[str, Tensor] = {}
        fields: dict[str, None] = {}
        for timestep in self.scheduler.timesteps[:3]:
            options = added_noise(self.scheduler, 0.0, lambda: torch.zeros(1, 1, 1, 1))
            latent, memory = trial.step(latent, timestep, latent, memory, **options)
            trial.turn()
            fields |= dict.fromkeys(memory)
        return list(fields)


def _remembered(scheduler: Scheduler) -> list[str]:
    return [name for name in SCHEDULER_MEMORY if hasattr(scheduler, name)]


def memory_of(scheduler: Scheduler) -> dict[str, Any]:
    """Take the memory of a scheduler as it is now: numbers and tensors; items of a list as `<name>.<index>`."""
    found: dict[str, Any] = {}
    for name in _remembered(scheduler):
        value = getattr(scheduler, name)
        if isinstance(value, list):
            found |= {f"{name}.{i}": item for i, item in enumerate(value) if item is not None}
        elif value is not None:
            found[name] = value
    return found


def restore_memory(scheduler: Scheduler, memory: Mapping[str, Any]) -> None:
    """Give what `memory_of` took to a scheduler whose timesteps are set."""
    for name, value in memory.items():
        if "." in name:  # an item of a list, which set_timesteps has made
            name, index = name.split(".")
            getattr(scheduler, name)[int(index)] = value
        else:
            setattr(scheduler, name, value)
